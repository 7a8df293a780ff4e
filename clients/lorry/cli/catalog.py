"""The catalogue on the command line: ls, show, resolve, rm, yank, update.

Owns what these commands print. Names, filters and rules are the registry's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import INT32, Json, Labels, Name, Reference, pairs, registry
from lorry.cli.where import Flags, filter_of

if TYPE_CHECKING:
    from lorry.v1.types_pb2 import Adapter, Version


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ls")(list_adapters)
    app.command()(show)
    app.command()(resolve)
    app.command("rm")(remove)
    app.command("yank")(yank)
    app.command()(update)


def list_adapters(  # noqa: PLR0913 - a flag for each field that a filter has
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="List this adapter's versions, newest first.")
    ] = None,
    *,
    where: Annotated[
        str, typer.Option("--filter", help="Such as 'variant = dora AND rank <= 8 AND labels.team = search'.")
    ] = "",
    namespace: Annotated[str, typer.Option(help="This namespace alone.")] = "",
    base: Annotated[str | None, typer.Option(help="Trained on this base, by name or base_id.")] = None,
    fits: Annotated[
        str | None, typer.Option("--servable-on", "--fits", metavar="BASE", help="Compatible with this base.")
    ] = None,
    rank: Annotated[str | None, typer.Option(metavar="N", help="Such as 16 or '<=16'.")] = None,
    variant: Annotated[str | None, typer.Option(help="lora, rslora or dora.")] = None,
    module: Annotated[str | None, typer.Option(help="Changes modules of this name, such as q_proj.")] = None,
    alias: Annotated[str | None, typer.Option(help="Has this alias.")] = None,
    size: Annotated[str | None, typer.Option(metavar="BYTES", help="Such as '<10MiB'.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Published on this date, or at this time, or later.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Or earlier; a date is its whole day in UTC.")
    ] = None,
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """List adapters, or the versions of one. What several flags ask for must all hold."""
    equal = {"base": base, "fits": fits, "variant": variant, "module": module, "alias": alias}
    flags = Flags(equal, rank, size, since, until, pairs(label))
    if name is not None and (label or namespace):
        raise typer.BadParameter("--label and --namespace choose among adapters, not among the versions of one")
    wanted = filter_of(where, flags)
    with registry(ctx) as client:
        if name is None:
            adapters = list(client.adapters(filter=wanted, namespace=namespace))
            output.say_json(adapters) if as_json else _show_adapters(adapters)
        else:
            versions = list(client.versions(name, filter=wanted))
            output.say_json(versions) if as_json else _show_versions(versions)


def show(ctx: typer.Context, reference: Reference, *, as_json: Json = False) -> None:
    """Show a version with its lineage, files, base and aliases."""
    with registry(ctx) as client:
        version = client.version(reference)
        adapter = client.adapter(f"{version.namespace}/{version.name}")
    if as_json:
        output.say_json({"adapter": adapter, "version": version})
        return
    output.show_facts(_about(adapter, version))
    output.show_table(
        ("file", "size>", "digest"), ((f.name, output.size(f.size_bytes), f.digest) for f in version.manifest.files)
    )


def resolve(ctx: typer.Context, reference: Reference, *, as_json: Json = False) -> None:
    """Say which version a reference means now."""
    with registry(ctx) as client:
        version = client.resolve(reference)
    if as_json:
        output.say_json(version)
    else:
        output.say(f"{version.namespace}/{version.name}@{version.number}  {version.digest}")


def remove(
    ctx: typer.Context,
    reference: Reference,
    *,
    everything: Annotated[bool, typer.Option("--all", help="The whole adapter: versions, aliases and all.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although aliases, leases or children need it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a version, or with --all an adapter. There is no way back."""
    with registry(ctx) as client:
        gone = (client.delete_adapter if everything else client.delete_version)(reference, force=force)
    if as_json:
        output.say_json(gone)
        return
    output.say(f"deleted {reference}")
    if gone.orphaned_children:
        output.note(f"these versions now name a missing parent: {', '.join(gone.orphaned_children)}")
    if gone.broken_leases:
        output.note(f"these still used it: {', '.join(gone.broken_leases)}")


def yank(
    ctx: typer.Context,
    reference: Reference,
    *,
    reason: Annotated[str, typer.Option(help="Told to everybody who asks for the version by name.")],
    as_json: Json = False,
) -> None:
    """Hide a version from resolution by name; whoever has its digest keeps it."""
    with registry(ctx) as client:
        version = client.yank(reference, reason)
    if as_json:
        output.say_json(version)
    else:
        output.say(f"yanked {version.namespace}/{version.name}@{version.number}")


def update(
    ctx: typer.Context,
    name: Name,
    *,
    description: Annotated[str | None, typer.Option(help="The new description.")] = None,
    label: Labels = None,
    clear_labels: Annotated[bool, typer.Option("--clear-labels", help="Forget the labels that are there.")] = False,
    keep_last: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=INT32,
            help="Let collections of garbage delete what is older than the N newest; 0: nothing.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change an adapter's description or retention, or add labels."""
    if description is None and keep_last is None and not label and not clear_labels:
        raise typer.BadParameter("nothing to change: expected --description, --label, --clear-labels or --keep-last")
    with registry(ctx) as client:
        before = client.adapter(name)
        labels = ({} if clear_labels else dict(before.labels)) | pairs(label)
        # Labels are written as a whole, so they must not overwrite what somebody else just wrote.
        after = client.update_adapter(
            name,
            description=description,
            labels=labels if label or clear_labels else None,
            keep_last=keep_last,
            expected_revision=before.revision,
        )
    if as_json:
        output.say_json(after)
    else:
        output.say(f"updated {after.namespace}/{after.name}")


def _show_adapters(adapters: Iterable[Adapter]) -> None:
    output.show_table(
        ("adapter", "latest>", "variant", "rank>", "size>", "aliases", "labels", "description"),
        (
            (
                _name(a),
                f"@{a.latest_number}" if a.latest_number else "",
                output.enum_word(a, "variant"),
                a.rank or "",
                output.size(a.size_bytes),
                " ".join(sorted(a.aliases)),
                " ".join(f"{key}={value}" for key, value in sorted(a.labels.items())),
                a.description,
            )
            for a in adapters
        ),
    )


def _show_versions(versions: Iterable[Version]) -> None:
    output.show_table(
        ("version>", "digest", "variant", "rank>", "size>", "published", "aliases", "made from"),
        (
            (
                f"@{v.number}",
                output.short(v.digest),
                " ".join((output.enum_word(v.manifest, "variant"), *v.manifest.features)),
                v.manifest.rank,
                output.size(v.size_bytes),
                output.moment(v.create_time),
                " ".join(v.aliases) + (" (yanked)" if v.HasField("yank_reason") else ""),
                _made_from(v),
            )
            for v in versions
        ),
    )


def _about(adapter: Adapter, version: Version) -> Iterable[tuple[str, object]]:
    manifest = version.manifest
    modules = sorted({module.rpartition(".")[2] for module in manifest.target_modules})
    return (
        ("adapter", f"{version.namespace}/{version.name}@{version.number}"),
        ("digest", version.digest),
        ("published", output.moment(version.create_time)),
        ("aliases", " ".join(version.aliases)),
        ("yanked", version.yank_reason),
        ("base", manifest.base_id),
        ("variant", output.enum_word(manifest, "variant")),
        ("features", " ".join(manifest.features)),
        ("rank", manifest.rank),
        ("alpha", f"{manifest.alpha:g}"),
        ("modules", f"{len(manifest.target_modules)} ({' '.join(modules)})"),
        ("size", output.size(version.size_bytes)),
        ("parents", " ".join(manifest.parents)),
        ("recipe", _recipe(version)),
        ("signed by", " ".join(_signers(version))),
        ("warnings", "; ".join(version.warnings)),
        ("description", adapter.description),
        ("keeps", f"the newest {adapter.keep_last}, and what is needed" if adapter.keep_last else ""),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(adapter.labels.items()))),
    )


def _signers(version: Version) -> list[str]:
    """Ids of the keys that are said to have signed; `lorry verify` finds out whether they did."""
    from lorry.signing.envelope import parse_envelope

    return [key for envelope in version.signatures for key in parse_envelope(envelope).signatures]


def _made_from(version: Version) -> str:
    manifest = version.manifest
    if manifest.HasField("recipe"):
        return f"{manifest.recipe.method} of {len(manifest.recipe.sources)}"
    return " ".join(output.short(parent) for parent in manifest.parents)


def _recipe(version: Version) -> str:
    if not version.manifest.HasField("recipe"):
        return ""
    recipe = version.manifest.recipe
    sources = " + ".join(f"{source.weight:g} {output.short(source.digest)}" for source in recipe.sources)
    return f"{recipe.method} {recipe.parameters_json} of {sources} by {recipe.tool}"


def _name(adapter: Adapter) -> str:
    return f"{adapter.namespace}/{adapter.name}"
