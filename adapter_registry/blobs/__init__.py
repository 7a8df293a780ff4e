"""Blob stores behind one Protocol: memory, file system, S3."""
