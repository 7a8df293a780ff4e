"""Adapters in and out of the registry: push, pull, check.

Owns these three commands' options and what they print. The work is lorry.registry's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Folder, Json, Labels, Name, Reference, pairs, registry
from lorry.cli.exits import exit_code
from lorry.cli.keys import private_key
from lorry.errors import IncompatibleAdapter

if TYPE_CHECKING:
    from lorry.v1.catalog_pb2 import CheckCompatibilityResponse, Verdict
    from lorry.v1.types_pb2 import Version


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(push)
    app.command()(pull)
    app.command()(check)


def push(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    folder: Folder,
    name: Name,
    *,
    base: Annotated[str, typer.Option(help="Name or base_id of the base, judged before any weights are sent.")] = "",
    parent: Annotated[
        list[str] | None, typer.Option(metavar="REF", help="A version it was made from, instead of the pulled one.")
    ] = None,
    no_parent: Annotated[bool, typer.Option("--no-parent", help="Record no parent.")] = False,
    alias: Annotated[str, typer.Option(help="Alias to point to the new version.")] = "",
    description: Annotated[str, typer.Option(help="Used where the adapter is new.")] = "",
    label: Labels = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="PEM", exists=True, dir_okay=False, help="Sign the version with this private key."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish a PEFT folder as a version. Sends only what the registry lacks; goes on where it was cut.

    A folder that `lorry pull` wrote and that changed since names the pulled version as its parent.
    """
    if parent and no_parent:
        raise typer.BadParameter("expected --parent or --no-parent, got both")
    key = private_key(sign) if sign else None
    with registry(ctx) as client, output.bars("push") as progress:
        version = client.push(
            folder,
            name,
            base=base,
            parents=[] if no_parent else parent,
            alias=alias,
            description=description,
            labels=pairs(label),
            key=key,
            progress=progress,
        )
    _tell(version, as_json=as_json)
    for warning in version.warnings:
        output.note(f"warning: {warning}")


def pull(
    ctx: typer.Context,
    reference: Reference,
    into: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder to write; the adapter's name where not given.")
    ] = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that differ, remove those of another version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a version into a folder that PeftModel.from_pretrained loads, to use or to train on."""
    from lorry.format.reference import parse_reference

    folder = into or Path(parse_reference(reference).adapter.name)
    with registry(ctx) as client, output.bars("pull") as progress:
        version = client.pull(reference, folder, overwrite=force, progress=progress)
    _tell(version, as_json=as_json)


def check(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="DIR|REF", help="A folder, or a published version.")],
    base: Annotated[
        str,
        typer.Argument(
            metavar="[BASE]", help="Name or base_id of a base; a folder's own, a version's every one if not given."
        ),
    ] = "",
    *,
    as_json: Json = False,
) -> None:
    """Judge an adapter against a base; lists every reason why it does not fit. Sends no weights.

    Without BASE, a published version is judged against every registered base, and the exit code is 0.
    """
    folder = Path(subject)
    with registry(ctx) as client:
        if not base and not folder.is_dir():
            _tell_all(list(client.verdicts(subject)), as_json=as_json)
            return
        verdict = client.check(folder if folder.is_dir() else subject, base)
    if as_json:
        output.say_json(verdict)
    else:
        _tell_verdict("", verdict)
    if not verdict.compatible:
        raise typer.Exit(exit_code(IncompatibleAdapter("")))


def _tell_all(verdicts: list[Verdict], *, as_json: bool) -> None:
    if as_json:
        output.say_json(verdicts)
    else:
        for verdict in verdicts:
            _tell_verdict(f"{verdict.base_model}: ", verdict)


def _tell_verdict(subject: str, verdict: CheckCompatibilityResponse | Verdict) -> None:
    output.say(f"{subject}{'compatible' if verdict.compatible else 'not compatible'}")
    for finding in verdict.findings:
        kind = "warning" if finding.warning else "reason"
        output.say(f"  {kind} {finding.code}: {finding.message}")


def _tell(version: Version, *, as_json: bool) -> None:
    if as_json:
        output.say_json(version)
    else:
        output.say(f"{version.namespace}/{version.name}@{version.number}  {version.digest}")
