"""The registry's nouns, filters and Protocols. Plain Python."""
