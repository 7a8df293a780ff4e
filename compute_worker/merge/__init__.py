"""Combination of adapters: tensors in, tensors out."""
