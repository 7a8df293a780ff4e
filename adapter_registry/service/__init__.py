"""The registry's rules: what may be published, and in which order bytes and names appear."""
