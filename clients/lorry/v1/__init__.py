"""Stubs generated from protos/lorry/v1 by `make protos`; edit the protos instead."""
