"""The engines of the Store port: memory, SQLite and Redis."""
