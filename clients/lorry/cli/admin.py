"""`lorry gc` and `lorry fsck`: what keeps a registry in order, by hand.

Owns these two commands and what they print. What garbage is, and how bytes are checked, is the
registry's business.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, registry
from lorry.cli.exits import exit_code
from lorry.errors import DataLoss

if TYPE_CHECKING:
    from lorry.v1.admin_pb2 import CollectGarbageResponse, FsckProgress, FsckResponse


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(gc)
    app.command()(fsck)


def gc(
    ctx: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be.")] = False,
    grace: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Keep what nobody names for so long, such as 1h; else as the registry does."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Apply retention, and sweep blobs and broken uploads that nobody needs any more."""
    from lorry.spans import parse_span

    kept = None if grace is None else parse_span(grace)
    with registry(ctx) as client, output.spinner("collecting garbage"):
        done = client.collect_garbage(dry_run=dry_run, grace=kept)
    if as_json:
        output.say_json(done)
    else:
        _tell(done)


def _tell(done: CollectGarbageResponse) -> None:
    for version in done.expired_versions:
        output.say(f"expired {version}")
    output.show_facts(
        [
            ("expired versions", done.expired_version_count),
            ("swept blobs", f"{done.swept_blobs}  ({output.size(done.swept_bytes)})"),
            ("kept blobs", f"{done.kept_blobs}  ({output.size(done.kept_bytes)})"),
            ("swept uploads", done.swept_uploads),
            ("forgotten rows", done.forgotten_rows),
            ("from quarantine", f"{done.discarded_blobs}  ({output.size(done.discarded_bytes)})"),
        ]
    )


def fsck(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Hash every stored byte and follow every name; damaged blobs are put aside.

    The exit code is 8 where anything was found.
    """
    found = 0
    with registry(ctx) as client:
        for report in _shown(client.fsck()):
            found += report.HasField("finding")
            if as_json:
                output.say_json(report)
            elif report.HasField("finding"):
                finding = report.finding
                kind = output.enum_word(finding, "problem")
                output.say(f"{kind} {finding.digest}  {', '.join(finding.versions)}  {finding.message}")
            else:
                done = report.progress
                output.say(f"checked {done.checked_blobs} blobs, {output.size(done.checked_bytes)}; {found} findings")
    if found:
        raise typer.Exit(exit_code(DataLoss("")))


def _shown(reports: Iterable[FsckResponse]) -> Iterator[FsckResponse]:
    """Findings and the end; what lies between is a bar on a terminal."""
    if not sys.stderr.isatty():
        yield from (report for report in reports if not _on_the_way(report))
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("checking blobs")
        for report in reports:
            if _on_the_way(report):
                progress: FsckProgress = report.progress
                shown.update(task, completed=progress.checked_blobs, total=progress.total_blobs)
            else:
                yield report


def _on_the_way(report: FsckResponse) -> bool:
    return report.HasField("progress") and not report.progress.done
