"""`make demo`: the pair at work on a real model with real adapters.

Owns the show: what is done in which order, and what a person reads. Does not know how anything is
done: it starts the two services and uses the CLI and the SDK as anybody would.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.model import ensure_model
from demo.pair import Server, end_on_signals, server
from lorry import WorkerClient, sync

ROOT = Path(__file__).resolve().parent.parent
ADAPTERS = ROOT / "demo" / "adapters"
# Where `make run-registry` and `make run-worker` look too: what the demo made is there afterwards.
STATE = ROOT / "var"
# What the demo's adapters call their base.
TRAINED_ON = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPT = "Tell me about elephants."
QUESTION = "What is the capital of France?"
NEW_TOKENS = 40

console = Console(highlight=False)


def main() -> None:
    """Run the show; Ctrl-C ends it and both services."""
    started = time.monotonic()
    end_on_signals()
    model = os.environ.get("MODEL") or str(ensure_model())
    try:
        show(model, started)
    except KeyboardInterrupt:
        console.print("\nstopped; both services are gone")
        sys.exit(130)


def show(model: str, started: float) -> None:
    """Everything, in order."""
    registry_settings = {"LORRY_REGISTRY_LISTEN": "127.0.0.1:0", "LORRY_REGISTRY_DATA_DIR": str(STATE / "registry")}
    with server("adapter_registry", STATE / "registry", **registry_settings) as registry:
        worker_settings = {
            "LORRY_WORKER_LISTEN": "127.0.0.1:0",
            "LORRY_WORKER_REGISTRY": _ready(registry, "starting the registry (SQLite and files)"),
            "LORRY_WORKER_MODEL": model,
            "LORRY_WORKER_CACHE_DIR": str(STATE / "worker"),
        }
        with server("compute_worker", STATE / "worker", **worker_settings) as worker:
            cli = Cli(registry.address())
            fill(cli, model)
            cli.worker = _ready(worker, "loading the base model and checking the engine against it")
            asyncio.run(one_batch(cli.worker))
            switch(cli)
            asyncio.run(weighted_sum(cli.worker))
            combine(cli)
            listings(cli)
    farewell(model, time.monotonic() - started)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A bar that moves for as long as the block runs, on a terminal alone."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


def _ready(service: Server, what: str) -> str:
    with busy(what):
        began = time.monotonic()
        address = service.address()
    console.print(f"[green]✓[/] {what}: [bold]{address}[/] [dim]{time.monotonic() - began:.1f} s[/]", soft_wrap=True)
    return address


class Cli:
    """The `lorry` command against the two services, each call shown before its output."""

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.worker = ""

    def __call__(self, *arguments: str) -> None:
        """Run one command; raises CalledProcessError where it fails."""
        shown = " ".join(f'"{a}"' if " " in a else a for a in arguments)
        console.print(f"[dim]$[/] [cyan]lorry {escape(shown.replace(str(ROOT) + '/', ''))}[/]", soft_wrap=True)
        environment = {"LORRY_REGISTRY": self.registry, "LORRY_WORKER": self.worker or "127.0.0.1:7472"}
        subprocess.run(
            [str(Path(sys.executable).with_name("lorry")), *arguments], check=True, env=os.environ | environment
        )


def fill(cli: Cli, model: str) -> None:
    """Register the base, push the adapters."""
    console.rule("The registry gets a base model and adapters")
    base = Path(model).name.lower()
    with sync.RegistryClient(cli.registry) as registry:
        known = {entry.name for entry in registry.base_models()}
    if base in known:  # from an earlier run; to load the model for its fingerprint again would tell nothing new
        cli("base", "ls")
    else:
        cli("base", "register", model, "--name", base, "--known-as", TRAINED_ON)
    for name in names():
        cli("push", str(ADAPTERS / name), name, "--base", base, "--alias", "prod")


def names() -> list[str]:
    """The demo's adapters."""
    return sorted(folder.name for folder in ADAPTERS.iterdir() if folder.is_dir())


async def one_batch(worker: str) -> None:
    """The same prompt under the base and under every adapter, all in one batch."""
    console.rule("One prompt, five selections, one batch")
    selections: dict[str, Mapping[str, float]] = {"(base)": {}, **{name: {name: 1.0} for name in names()}}
    await table(worker, PROMPT, selections)


async def weighted_sum(worker: str) -> None:
    """Two adapters at once, weighted, in one request."""
    console.rule("A weighted sum of two adapters, in the request itself")
    mixes: Sequence[Mapping[str, float]] = ({"pirate": 1}, {"pirate": 1, "letter": 0.8}, {"letter": 1})
    await table(worker, QUESTION, {" + ".join(f"{w:g} {n}" for n, w in mix.items()): mix for mix in mixes})


async def table(worker: str, prompt: str, selections: Mapping[str, Mapping[str, float]]) -> None:
    """Generate under all selections at once and print what came."""
    async with WorkerClient(worker) as client:
        began = time.monotonic()
        with busy("generating"):
            texts = await asyncio.gather(
                *(
                    client.generate(messages=[("user", prompt)], adapters=dict(s), max_new_tokens=NEW_TOKENS).text()
                    for s in selections.values()
                )
            )
        seconds = time.monotonic() - began
    grid = Table(title=f'"{prompt}"', show_lines=True, title_style="italic")
    grid.add_column("adapters", style="bold")
    grid.add_column("answer")
    for label, text in zip(selections, texts, strict=True):
        grid.add_row(label, escape(text.strip()))
    console.print(grid)
    console.print(f"[dim]{len(texts)} requests together in {seconds:.1f} s[/]")


def switch(cli: Cli) -> None:
    """The default route, before and after."""
    console.rule("A switch of the default route")
    cli("generate", "What is the moon?", "-n", "24")
    cli("switch", "pirate:prod")
    cli("generate", "What is the moon?", "-n", "24")
    cli("switch")


def combine(cli: Cli) -> None:
    """TIES of two adapters, published with its lineage, then served by name."""
    console.rule("A TIES combination, published back and served")
    cli("combine", "pirate=1.6", "letter", "--method", "ties", "--density", "0.5", "--publish", "pirate-letter")
    cli("show", "pirate-letter")
    cli("generate", QUESTION, "-a", "pirate-letter", "-n", str(NEW_TOKENS))


def listings(cli: Cli) -> None:
    """What the registry and the worker hold now."""
    console.rule("What is where")
    cli("ls")
    cli("ps")


def farewell(model: str, seconds: float) -> None:
    """How to go on by hand."""
    custom = f" MODEL={model}" if os.environ.get("MODEL") else ""
    lines = [
        "[bold]go on by hand[/] (the same state, in two terminals)",
        "  make run-registry",
        f"  make run-worker{custom}",
        "[bold]then[/]",
        "  source .venv/bin/activate",
        '  lorry generate "Tell me about elephants." -a pirate',
        '  lorry generate "What is the capital of France?" -a pirate -a letter=0.8',
        "  lorry chat -a json",
        "  lorry ls; lorry ps; lorry --help",
    ]
    console.print(Panel("\n".join(lines), title=f"done in {seconds:.0f} s; both services are stopped", expand=False))


if __name__ == "__main__":
    main()
