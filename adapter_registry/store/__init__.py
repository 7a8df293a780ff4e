"""The catalogue in SQL: SQLite embedded, PostgreSQL in production."""
