"""Alembic's environment and the revisions of the catalogue's tables, one file each."""
