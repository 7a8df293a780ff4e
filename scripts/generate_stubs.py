"""Generate the Python stubs of protos/lorry/v1, or check that the committed ones are up to date.

Owns the protoc call. Does not know what the messages mean. The stubs are committed so that the
plain install needs no compiler.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = Path("lorry/v1")


def generate(out: Path) -> None:
    """Write the stubs below `out`. Raises SystemExit where protoc refuses."""
    scripts = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *(str(path) for path in sorted((PROTOS / STUBS).glob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")


def differences(committed: Path) -> list[str]:
    """Names of the stubs that differ from what the protos give, or that the protos do not give."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / STUBS
        names = {path.name for path in fresh.iterdir()} | {path.name for path in committed.glob("*_pb2*")}
        _, different, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    return sorted([*different, *missing])


def main() -> None:
    """`generate_stubs [--check] FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder that holds lorry/v1, that is `clients`")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the stubs are stale")
    options = parser.parse_args()
    if not options.check:
        generate(options.folder)
        return
    stale = differences(options.folder / STUBS)
    if stale:
        sys.exit(f"stale stubs, run `make protos`: {', '.join(stale)}")
    sys.stdout.write("stubs are up to date\n")


if __name__ == "__main__":
    main()
