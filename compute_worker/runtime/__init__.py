"""Cache, selection, routes and scheduler. Plain Python; sees the engine as a Protocol."""
