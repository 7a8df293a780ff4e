"""The catalogue on the command line: ls, show, resolve, rm, yank, update.

Owns what these commands print. Names, filters and rules are the registry's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, Labels, Name, Reference, pairs, registry

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


def list_adapters(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="List this adapter's versions, newest first.")
    ] = None,
    *,
    where: Annotated[
        str, typer.Option("--filter", help="Such as 'variant = dora AND rank <= 8 AND labels.team = search'.")
    ] = "",
    namespace: Annotated[str, typer.Option(help="This namespace alone.")] = "",
    as_json: Json = False,
) -> None:
    """List adapters, or the versions of one."""
    with registry(ctx) as client:
        if name is None:
            adapters = list(client.adapters(filter=where, namespace=namespace))
            output.say_json(adapters) if as_json else _show_adapters(adapters)
        else:
            versions = list(client.versions(name))
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
    force: Annotated[bool, typer.Option("--force", help="Although aliases or children name it.")] = False,
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
    as_json: Json = False,
) -> None:
    """Change an adapter's description, or add labels."""
    if description is None and not label and not clear_labels:
        raise typer.BadParameter("nothing to change: expected --description, --label or --clear-labels")
    with registry(ctx) as client:
        before = client.adapter(name)
        labels = ({} if clear_labels else dict(before.labels)) | pairs(label)
        # Labels are written as a whole, so they must not overwrite what somebody else just wrote.
        after = client.update_adapter(
            name,
            description=description,
            labels=labels if label or clear_labels else None,
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
                output.enum_word(v.manifest, "variant"),
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
        ("rank", manifest.rank),
        ("alpha", f"{manifest.alpha:g}"),
        ("modules", f"{len(manifest.target_modules)} ({' '.join(modules)})"),
        ("size", output.size(version.size_bytes)),
        ("parents", " ".join(manifest.parents)),
        ("recipe", _recipe(version)),
        ("warnings", "; ".join(version.warnings)),
        ("description", adapter.description),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(adapter.labels.items()))),
    )


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
