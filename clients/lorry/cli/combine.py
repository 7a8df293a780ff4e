"""`lorry combine`: a new adapter out of others, kept on the worker or published; and the recipes of such.

Owns the command's options and the YAML of a recipe. Which methods there are and what each takes is the
contract's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from lorry.cli import output
from lorry.cli.context import Json, adapters, registry, worker
from lorry.cli.search import search

if TYPE_CHECKING:
    from lorry.combination import Parameter
    from lorry.recipe import WrittenRecipe
    from lorry.selection import Adapters
    from lorry.v1.residency_pb2 import CombineResponse

_METHODS = (
    "linear (where none is given), sum, cat, svd; magnitude_prune, ties, dare_linear, dare_ties, "
    "and these four with _svd behind the name."
)


class _Combine(TyperCommand):
    """`combine REF...`, and below it `combine search REF...`; an adapter of that name is written local/search."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args[:1] != ["search"]:
            return super().make_context(info_name, args, parent, **extra)
        searching = typer.Typer(add_completion=False, rich_markup_mode=None)
        searching.command()(search)
        return typer.main.get_command(searching).make_context(f"{info_name} search", args[1:], parent, **extra)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=_Combine)(combine)


def combine(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    sources: Annotated[list[str] | None, typer.Argument(metavar="REF[=WEIGHT]...", help="What to combine.")] = None,
    *,
    method: Annotated[str | None, typer.Option(help=_METHODS)] = None,
    density: Annotated[float | None, typer.Option(help="Share of the entries that is kept.")] = None,
    sign: Annotated[str | None, typer.Option(metavar="total|frequency", help="How TIES elects a sign.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of DARE's random choice; part of the recipe.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of an svd's result; the largest source's where not given.")] = None,
    clamp: Annotated[float | None, typer.Option(help="Quantile at which an svd's factors are clamped.")] = None,
    publish: Annotated[str, typer.Option(metavar="NAME", help="Publish it under this name, with its lineage.")] = "",
    alias: Annotated[str, typer.Option(help="Alias to point to what is published.")] = "",
    description: Annotated[str, typer.Option(help="Used where the published adapter is new.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be; keep and publish nothing.")] = False,
    recipe_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", exists=True, dir_okay=False, help="Follow this recipe.")
    ] = None,
    recipe_of: Annotated[
        str | None, typer.Option("--recipe", metavar="REF", help="Print the recipe of a published combination.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Combine adapters: `lorry combine pirate json=0.5 --method ties --density 0.5 --publish mix`.

    `lorry combine search` finds weights by examples: `lorry combine search --help`.
    `lorry combine --recipe mix > mix.yaml` writes down how it was made, `lorry combine --from mix.yaml` makes it again.
    """
    given: dict[str, Parameter] = {"density": density, "majority_sign": sign, "seed": seed, "rank": rank}
    given["clamp_quantile"] = clamp
    told = bool(sources) or method is not None or any(value is not None for value in given.values())
    if (recipe_file is not None) + (recipe_of is not None) + told > 1:
        raise typer.BadParameter("--from and --recipe stand alone: what to combine and how is in the recipe")
    if (alias or description) and not publish:
        raise typer.BadParameter("--alias and --description belong to --publish")
    if recipe_of is not None and (publish or dry_run):
        raise typer.BadParameter("--recipe writes a recipe down and combines nothing")
    if recipe_of is not None:
        _show_recipe(ctx, recipe_of, as_json=as_json)
        return
    what, how, parameters = _read(recipe_file) if recipe_file else (adapters(sources), method or "linear", given)
    with worker(ctx) as client, output.spinner(f"combining by {how}"):
        made = client.combine(
            what, how, publish=publish, alias=alias, description=description, dry_run=dry_run, **parameters
        )
    if as_json:
        output.say_json(made)
    else:
        _show(made)


def _show(made: CombineResponse) -> None:
    if made.HasField("dry_run"):
        dry = made.dry_run
        output.show_facts(
            [
                ("recipe", made.recipe_digest + ("  (was there already)" if made.existed else "")),
                ("rank", dry.rank),
                ("size", output.size(dry.size_bytes)),
                ("off the exact sum", f"{dry.relative_error:.2%}"),
                ("most", f"{dry.worst_relative_error:.2%} in {dry.worst_module}"),
            ]
        )
        return
    output.say(f"{made.adapter}  rank {made.resident.rank}{'  (was there already)' if made.existed else ''}")
    if made.HasField("version"):
        version = made.version
        output.say(f"published {version.namespace}/{version.name}@{version.number}  {version.digest}")


def _read(file: Path) -> tuple[Adapters, str, dict[str, Parameter]]:
    import yaml

    from lorry.errors import InvalidCombination
    from lorry.recipe import read

    try:
        recipe = read(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidCombination(f"{file}: expected YAML: {' '.join(str(error).split())}") from error
    return recipe.sources, recipe.method, recipe.parameters


def _show_recipe(ctx: typer.Context, reference: str, *, as_json: bool) -> None:
    with registry(ctx) as client:
        recipe = client.recipe(reference)
    if as_json:
        output.say_json(recipe.document())
    else:
        output.write(_yaml(recipe))


def _yaml(recipe: WrittenRecipe) -> str:
    import yaml

    text: str = yaml.safe_dump(recipe.document(), sort_keys=False, width=200)
    return text
