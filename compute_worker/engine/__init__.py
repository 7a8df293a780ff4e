"""The base model, the rank pool, the KV cache, sampling. Sees row ranges and plans, never names."""
