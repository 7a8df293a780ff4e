"""`lorry base`: register, update, ls, show.

Owns these commands, and the loading of a base to take its fingerprint: the only command that needs
torch, and it says so where torch is missing.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, registry
from lorry.errors import InvalidInput, MissingExtra
from lorry.format.compatibility import CarryOver

if TYPE_CHECKING:
    from lorry.format.base import BaseFacts
    from lorry.sync import RegistryClient
    from lorry.v1.types_pb2 import BaseModel

app = typer.Typer(help="Base models that adapters are judged against.", no_args_is_help=True)

Parent = typer.Option(metavar="BASE", help="Name or base_id of the base that this is a variant of.")
Policy = typer.Option(help="Whether adapters of the bases that it descends from may be served on it.")
Base = Annotated[str, typer.Argument(metavar="BASE", help="Name, known_as name or base_id.")]


@app.command("register")
def register_base(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="DIR", help="A Hugging Face folder, a GGUF file, or a hub id.")],
    *,
    name: Annotated[str, typer.Option(help="Short unique name.")],
    known_as: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What adapters call this base; may be given several times."),
    ] = None,
    derived_from: Annotated[str, Parent] = "",
    carry_over: Annotated[CarryOver, Policy] = CarryOver.REFUSE,
    as_json: Json = False,
) -> None:
    """Make a base model known by its fingerprint and module table. Needs the extra `worker`."""
    with output.spinner(f"loading {model}"):
        facts = _facts(model)
    with registry(ctx) as client:
        base = client.register_base_model(
            name,
            facts,
            known_as=known_as or (),
            derived_from=_base_id(client, derived_from) or "",
            carry_over=carry_over,
        )
    if as_json:
        output.say_json(base)
    else:
        output.say(f"{base.name}  {base.base_id}  {len(base.modules)} modules")


@app.command("update")
def update_base(
    ctx: typer.Context,
    base: Base,
    *,
    derived_from: Annotated[str | None, Parent] = None,
    carry_over: Annotated[CarryOver | None, Policy] = None,
    as_json: Json = False,
) -> None:
    """Change the family of a base; `--derived-from ''` takes it out of its family. Verdicts follow."""
    if derived_from is None and carry_over is None:
        raise typer.BadParameter("expected --derived-from or --carry-over, got neither")
    with registry(ctx) as client:
        parent = _base_id(client, derived_from)
        found = client.update_base_model(base, derived_from=parent, carry_over=carry_over)
        if as_json:
            output.say_json(found)
        else:
            output.say(f"{found.name}  {_family(found, _names(client))}")


@app.command("ls")
def list_bases(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the registered bases."""
    with registry(ctx) as client:
        bases = list(client.base_models())
    if as_json:
        output.say_json(bases)
        return
    names = {b.base_id: b.name for b in bases}
    output.show_table(
        ("base", "type", "vocabulary>", "quantization", "family", "known as", "base_id"),
        (
            (b.name, b.model_type, b.vocab_size, b.quantization, _family(b, names), " ".join(b.known_as), b.base_id)
            for b in bases
        ),
    )


@app.command("show")
def show_base(ctx: typer.Context, base: Base, *, as_json: Json = False) -> None:
    """Show a base with its module table."""
    with registry(ctx) as client:
        found = client.base_model(base)
        names = {} if as_json else _names(client)
    if as_json:
        output.say_json(found)
        return
    output.show_facts(
        (
            ("base", found.name),
            ("base_id", found.base_id),
            ("architecture", found.architecture_id),
            ("type", found.model_type),
            ("vocabulary", found.vocab_size),
            ("quantization", found.quantization),
            ("family", _family(found, names)),
            ("known as", " ".join(found.known_as)),
        )
    )
    output.show_table(
        ("module", "kind", "in>", "out>"),
        ((m.name, output.enum_word(m, "kind"), m.in_features, m.out_features) for m in found.modules),
    )


def _base_id(client: RegistryClient, base: str | None) -> str | None:
    """What the name of a base means; a base_id need not be registered."""
    return client.base_model(base).base_id if base and not base.startswith("sha256:") else base


def _names(client: RegistryClient) -> dict[str, str]:
    return {base.base_id: base.name for base in client.base_models()}


def _family(base: BaseModel, names: dict[str, str]) -> str:
    """The family for people: `of llama-3 (warn)`."""
    if not base.derived_from:
        return ""
    return f"of {names.get(base.derived_from, base.derived_from)} ({output.enum_word(base, 'carry_over')})"


def _facts(model: str) -> BaseFacts:
    try:
        import torch

        from lorry import lean

        lean.load(model)
        from transformers.utils import logging

        from lorry import checkpoint
        from lorry.fingerprint import base_facts
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"loading a base needs {error.name}, which the extra `worker` brings: pip install 'lorry[worker]'"
        ) from error
    logging.disable_progress_bar()  # the spinner is the one thing that moves
    try:
        with warnings.catch_warnings(action="ignore"):
            # bfloat16: the fingerprint rounds to it anyway, and it halves the memory.
            loaded = checkpoint.load(model, dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected a causal language model that transformers loads, got {model!r}: {error}"
        ) from error
    return base_facts(loaded)
