"""Push, pull, train on with stock PEFT, push again: the lineage is recorded and the bytes are PEFT's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorry import RegistryClient
from lorry.fingerprint import base_facts
from tests.support.models import tiny_model

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """An adapter as stock PEFT saves it, model card and all."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model("llama"), config)
    step(model)
    model.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def step(model: PeftModel) -> None:
    """One step of training on four tokens."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    tokens = torch.tensor([[5, 6, 7, 8]])
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()


async def test_a_run_that_goes_on_records_where_it_came_from(
    client: RegistryClient, trained: Path, tmp_path: Path
) -> None:
    await client.register_base_model("llama", base_facts(tiny_model("llama")))
    first = await client.push(trained, "runs/pirate", base="llama")

    run = tmp_path / "run"
    await client.pull("runs/pirate", run)
    model = PeftModel.from_pretrained(tiny_model("llama"), run, is_trainable=True)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    assert before  # is_trainable took effect
    step(model)
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters() if name in before)
    model.save_pretrained(run)

    second = await client.push(run, "runs/pirate", base="llama")
    assert (second.number, list(second.manifest.parents)) == (2, [first.digest])
    assert (second.manifest.rank, second.manifest.alpha) == (4, 8)

    await client.pull("runs/pirate@2", tmp_path / "again")
    again = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "again")
    tokens = torch.tensor([[9, 10, 11]])
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)


async def test_the_configuration_comes_back_as_the_bytes_that_peft_wrote(
    client: RegistryClient, trained: Path, tmp_path: Path
) -> None:
    await client.register_base_model("llama", base_facts(tiny_model("llama")))
    await client.push(trained, "runs/pirate", base="llama")
    await client.pull("runs/pirate", tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / name).read_bytes()
