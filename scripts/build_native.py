"""Build the worker's C++ kernels, one library for each kind of CPU: `python -m scripts.build_native`.

Owns the compiler's arguments. Where there is no compiler a line says so, and the worker computes with
torch alone.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "compute_worker" / "engine" / "native"
# -ffp-contract: a * b + c in one instruction. -fno-math-errno: sqrt is an instruction too.
_COMMON = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-Wall")
_AVX512 = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
TARGETS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512bf16": (*_AVX512, "-mavx512bf16"),
    # Not for use: the code of avx512 on a CPU that lacks it, for tests.
    "wide": ("-O1", "-mavx2", "-mfma", "-DLANES=16", "-Wno-psabi"),
}


def build(into: Path, variants: Sequence[str]) -> list[Path]:
    """Compile some of TARGETS, side by side; the libraries written. Raises SystemExit where g++ refuses."""
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() not in {"x86_64", "AMD64"}:
        print("native kernels: not built, they need g++ and an x86-64 CPU; the worker will use torch's own")
        return []
    into.mkdir(parents=True, exist_ok=True)
    files = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    libraries = [into / f"lorry-{variant}.so" for variant in variants]
    running = []
    for variant, library in zip(variants, libraries, strict=True):
        # To another name first: a worker that runs has the old library mapped.
        command = [compiler, *_COMMON, *TARGETS[variant], *files, "-o", f"{library}.new"]
        running.append(subprocess.Popen(command))  # noqa: S603 - our own arguments
    failed = [process.wait() for process in running]  # all of them, so that none is left running
    if any(failed):
        sys.exit("native kernels: g++ failed")
    for library in libraries:
        Path(f"{library}.new").replace(library)
    return libraries


def main() -> None:
    """Build what runs."""
    for library in build(SOURCES / "built", ("avx2", "avx512", "avx512bf16")):
        print(f"native kernels: {library}")


if __name__ == "__main__":
    main()
