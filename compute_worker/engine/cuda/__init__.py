"""What the engine does otherwise on a CUDA device: attention over paged KV, copies beside the steps, recorded steps.

Each part is taken only where it was checked at start, on the device itself; what is not taken falls back to
what serves everywhere.
"""
