"""Lorry's SDK: clients of the adapter registry and of the compute worker, and what both sides share."""
