"""What importing the SDK costs: nothing heavy comes along unasked."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "boto3", "adapter_registry", "compute_worker")


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("code", ["import lorry", "import lorry.cli.app"])
def test_not_even_grpc_is_loaded_before_it_is_needed(code: str) -> None:
    assert loaded_by(code) & {*HEAVY, "grpc", "google", "numpy"} == set()


def test_the_clients_need_neither_torch_nor_a_service() -> None:
    assert (
        loaded_by("from lorry import RegistryClient, WorkerClient, LorryError, sync; sync.RegistryClient") & {*HEAVY}
        == set()
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    import lorry

    with pytest.raises(AttributeError, match="Nothing"):
        _ = lorry.Nothing
