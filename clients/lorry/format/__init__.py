"""A PEFT adapter as bytes and facts: digests, references, configuration, tensor index, bundle, verdict.

No torch, no grpc: the registry, the worker and the CLI judge an adapter with the same code.
"""
