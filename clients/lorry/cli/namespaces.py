"""`lorry namespace`: show, ls, set.

Owns these commands, and how people write a number of bytes. Does not judge limits or keys; the
registry does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import INT64, Json, registry

if TYPE_CHECKING:
    from lorry.v1.admin_pb2 import Namespace

app = typer.Typer(help="Namespaces: limits, trusted keys, use.", no_args_is_help=True)

_Named = Annotated[str, typer.Argument(metavar="NAME", help="The namespace.")]

_UNITS = {"": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
# Stays within 64 bits: a million TiB are 2^60 bytes.
_BYTES = re.compile(r"([0-9]{1,6})(KiB|MiB|GiB|TiB)|([0-9]{1,15})")


@app.command()
def show(ctx: typer.Context, name: _Named, *, as_json: Json = False) -> None:
    """Show a namespace's limits, keys and use."""
    with registry(ctx) as client:
        _tell(client.namespace(name), as_json=as_json)


@app.command("ls")
def list_namespaces(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the namespaces that hold something or have limits."""
    with registry(ctx) as client:
        found = list(client.namespaces())
    if as_json:
        output.say_json(found)
        return
    output.show_table(
        ("namespace", "adapters>", "versions>", "at most>", "bytes>", "at most>", "keys>"),
        (
            (n.name, n.adapter_count, n.used_versions, n.max_versions or "", *_use(n), len(n.trusted_keys) or "")
            for n in found
        ),
    )


@app.command("set")
def change(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    name: _Named,
    *,
    max_bytes: Annotated[str | None, typer.Option(metavar="BYTES", help="Such as 10GiB; 0 lifts the limit.")] = None,
    max_versions: Annotated[int | None, typer.Option(metavar="N", min=0, max=INT64, help="0 lifts the limit.")] = None,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Public key (PEM) that may sign, in place of all others. May be given several times.",
        ),
    ] = None,
    no_trusted_keys: Annotated[bool, typer.Option("--no-trusted-keys", help="Ask for no signatures.")] = False,
    expect: Annotated[
        int, typer.Option(metavar="REVISION", min=0, max=INT64, help="Only where it has this revision.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Change a namespace's limits and keys; what is not given stays."""
    if trusted_key and no_trusted_keys:
        raise typer.BadParameter("expected --trusted-key or --no-trusted-keys, got both")
    keys = [path.read_text(encoding="ascii", errors="replace") for path in trusted_key or ()]
    if max_bytes is None and max_versions is None and not keys and not no_trusted_keys:
        raise typer.BadParameter("expected something to set, got nothing")
    with registry(ctx) as client:
        changed = client.update_namespace(
            name,
            max_bytes=None if max_bytes is None else parse_bytes(max_bytes),
            max_versions=max_versions,
            trusted_keys=keys if keys or no_trusted_keys else None,
            revision=expect,
        )
    _tell(changed, as_json=as_json)


def parse_bytes(text: str) -> int:
    """`10GiB`, `512MiB`, `1000`. Raises typer.BadParameter."""
    found = _BYTES.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"expected a number of bytes such as 10GiB, 512MiB or 1000, got {text!r}")
    return int(found[1] or found[3]) << _UNITS[found[2] or ""]


def _use(namespace: Namespace) -> tuple[str, str]:
    return output.size(namespace.used_bytes), output.size(namespace.max_bytes) if namespace.max_bytes else ""


def _tell(namespace: Namespace, *, as_json: bool) -> None:
    if as_json:
        output.say_json(namespace)
        return
    used, most = _use(namespace)
    output.show_facts(
        (
            ("namespace", namespace.name),
            ("adapters", namespace.adapter_count),
            ("versions", namespace.used_versions),
            ("at most", namespace.max_versions or ""),
            ("bytes", used),
            ("of unfinished uploads", output.size(namespace.uploading_bytes) if namespace.uploading_bytes else ""),
            ("at most", most),
            ("trusted keys", len(namespace.trusted_keys) or ""),
            ("revision", namespace.revision),
        )
    )
