"""The adapter registry: versions, aliases and lineage in SQL, bytes in a blob store, served over gRPC."""
