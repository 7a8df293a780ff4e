"""Commands of the project itself; run by make."""
