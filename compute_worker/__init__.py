"""The compute worker: one base model, many LoRA adapters, any mix of them in one batch."""
