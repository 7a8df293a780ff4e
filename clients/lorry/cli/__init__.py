"""The `lorry` command. Needs the extra `cli`; `base register` also needs the extra `worker`."""
