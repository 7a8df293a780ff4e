"""The `lorry` command."""
