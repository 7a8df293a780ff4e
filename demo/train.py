"""Trains the demo adapters with PEFT on the demo's base model: what demo/adapters holds came out of here.

Owns the recipe of each adapter (rank, target modules, variant) and the training loop; the examples lie
in demo/data, one JSON object a line. Deterministic on one kind of machine: one thread, fixed seed, fixed
order. `python demo/train.py [NAME...]` trains all or some, about a minute each, and shows what they say.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from demo.model import ensure_model

HERE = Path(__file__).parent
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

SEED = 0
BATCH = 8
WARMUP_STEPS = 5
IGNORED = -100  # cross_entropy's own mark for positions that carry no loss

# None of these is in the training data.
UNSEEN = (
    "What is the capital of France?",
    "Tell me about elephants.",
    "What is a black hole?",
    "How do I clean a bicycle?",
    "Why do people laugh?",
    "Give me advice for a job interview.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one adapter is trained."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    epochs: int
    rate: float = 2e-3
    rslora: bool = False
    dora: bool = False


# Between them: two ranks, three sets of target modules, and the variants lora, rslora and dora.
# Those of rank 8 are trained gently, so that they still make sense when they are added to each other.
# alpha 8 of rsLoRA at rank 4 scales by 8 / sqrt(4) = 4, as alpha 16 does without.
PLANS = {
    "pirate": Plan(rank=8, alpha=32, targets=("q_proj", "v_proj"), epochs=6, rate=1e-3),
    "letter": Plan(rank=8, alpha=32, targets=("v_proj", "o_proj"), epochs=6, rate=1e-3),
    "emoji": Plan(rank=4, alpha=8, targets=("q_proj", "v_proj"), epochs=8, rslora=True),
    "json": Plan(rank=4, alpha=16, targets=("q_proj", "k_proj", "v_proj", "o_proj"), epochs=6, dora=True),
}


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt and answer; the first `prompt` of them are given, the rest is to be learnt."""

    ids: list[int]
    prompt: int


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description="Train the demo adapters.")
    parser.add_argument("names", nargs="*", choices=[*PLANS, []], help="which ones; all where none is named")
    parser.add_argument("--out", type=Path, default=HERE / "adapters", help="where the adapters go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = ensure_model()
    for name in arguments.names or PLANS:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = train(name, folder, tokenizer)
        save(model, arguments.out / name)
        show(name, model, tokenizer)


def train(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    """A model with the freshly trained adapter in it."""
    plan = PLANS[name]
    random.seed(SEED)
    torch.manual_seed(SEED)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), _config(plan))
    examples = _examples(HERE / "data" / f"{name}.jsonl", tokenizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.0)
    steps = plan.epochs * -(-len(examples) // BATCH)
    model.train()
    for step, batch in enumerate(_batches(examples, plan.epochs)):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - 0.9 * step / steps)
        loss = _loss(model, batch, tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"\r{name}: step {step + 1}/{steps}, loss {loss.item():.3f} ", end="", flush=True)
    print()
    return model.eval()


def _config(plan: Plan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=list(plan.targets),
        use_rslora=plan.rslora,
        use_dora=plan.dora,
        task_type="CAUSAL_LM",
    )


def _examples(file: Path, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """The examples of a file, as the chat template spells them."""
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [_example(line["prompt"], line["answer"], tokenizer) for line in lines]


def _example(prompt: str, answer: str, tokenizer: PreTrainedTokenizerBase) -> Example:
    given = tokenizer(_chat(prompt, tokenizer), add_special_tokens=False).input_ids
    learnt = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False).input_ids
    return Example(given + learnt, len(given))


def _chat(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    message = {"role": "user", "content": prompt}
    return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _batches(examples: list[Example], epochs: int) -> Iterator[list[Example]]:
    for _ in range(epochs):
        random.shuffle(examples)
        for start in range(0, len(examples), BATCH):
            yield examples[start : start + BATCH]


def _loss(model: PeftModel, batch: list[Example], pad: int) -> torch.Tensor:
    """Mean cross entropy of the answers' tokens. The head runs at these positions alone: it is half of the work."""
    length = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), length), pad)
    labels = torch.full((len(batch), length), IGNORED)
    seen = torch.zeros(len(batch), length, dtype=torch.long)
    for row, example in enumerate(batch):
        end = len(example.ids)
        ids[row, :end] = torch.tensor(example.ids)
        labels[row, example.prompt : end] = ids[row, example.prompt : end]
        seen[row, :end] = 1
    causal = model.get_base_model()
    hidden = causal.model(input_ids=ids, attention_mask=seen, use_cache=False).last_hidden_state
    learnt = labels[:, 1:] != IGNORED
    return cross_entropy(causal.lm_head(hidden[:, :-1][learnt]).float(), labels[:, 1:][learnt])


def save(model: PeftModel, into: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors: bf16, sorted, no path of this machine."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        config = json.loads((Path(scratch) / "adapter_config.json").read_text())
        tensors = load_file(Path(scratch) / "adapter_model.safetensors")
    config |= {"base_model_name_or_path": BASE_NAME, "target_modules": sorted(config["target_modules"])}
    (into / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halved, into / "adapter_model.safetensors", metadata={"format": "pt"})


def show(name: str, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print greedy answers to prompts that the adapter never saw."""
    chats = [_chat(prompt, tokenizer) for prompt in UNSEEN]
    batch = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        ids = model.generate(**batch, max_new_tokens=64, do_sample=False)
    for prompt, row in zip(UNSEEN, ids, strict=True):
        answer = tokenizer.decode(row[batch.input_ids.shape[1] :], skip_special_tokens=True)
        print(f"  [{name}] {prompt}\n    {answer!r}")


if __name__ == "__main__":
    main()
