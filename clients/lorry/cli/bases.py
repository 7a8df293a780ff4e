"""`lorry base`: register, ls, show.

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

if TYPE_CHECKING:
    from lorry.format.base import BaseFacts

app = typer.Typer(help="Base models that adapters are judged against.", no_args_is_help=True)

Base = Annotated[str, typer.Argument(metavar="BASE", help="Name, known_as name or base_id.")]


@app.command("register")
def register_base(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="DIR", help="A Hugging Face folder, or a hub id.")],
    *,
    name: Annotated[str, typer.Option(help="Short unique name.")],
    known_as: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What adapters call this base; may be given several times."),
    ] = None,
    derived_from: Annotated[str, typer.Option(metavar="BASE_ID", help="The base that this is a variant of.")] = "",
    as_json: Json = False,
) -> None:
    """Make a base model known by its fingerprint and module table. Needs the extra `worker`."""
    with output.spinner(f"loading {model}"):
        facts = _facts(model)
    with registry(ctx) as client:
        base = client.register_base_model(name, facts, known_as=known_as or (), derived_from=derived_from)
    if as_json:
        output.say_json(base)
    else:
        output.say(f"{base.name}  {base.base_id}  {len(base.modules)} modules")


@app.command("ls")
def list_bases(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the registered bases."""
    with registry(ctx) as client:
        bases = list(client.base_models())
    if as_json:
        output.say_json(bases)
        return
    output.show_table(
        ("base", "type", "vocabulary>", "quantization", "known as", "base_id"),
        ((b.name, b.model_type, b.vocab_size, b.quantization, " ".join(b.known_as), b.base_id) for b in bases),
    )


@app.command("show")
def show_base(ctx: typer.Context, base: Base, *, as_json: Json = False) -> None:
    """Show a base with its module table."""
    with registry(ctx) as client:
        found = client.base_model(base)
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
            ("derived from", found.derived_from),
            ("known as", " ".join(found.known_as)),
        )
    )
    output.show_table(
        ("module", "kind", "in>", "out>"),
        ((m.name, output.enum_word(m, "kind"), m.in_features, m.out_features) for m in found.modules),
    )


def _facts(model: str) -> BaseFacts:
    try:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from lorry.fingerprint import base_facts
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"loading a base needs {error.name}, which the extra `worker` brings: pip install 'lorry[worker]'"
        ) from error
    logging.disable_progress_bar()  # the spinner is the one thing that moves
    try:
        with warnings.catch_warnings(action="ignore"):
            # bfloat16: the fingerprint rounds to it anyway, and it halves the memory.
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected a causal language model that transformers loads, got {model!r}: {error}"
        ) from error
    return base_facts(loaded)
