"""Persistence in SQL, written once for SQLite and PostgreSQL.

`connection` says what a driver must offer (sqlite_store and postgres_store do), `queries.sql` holds every
statement, `migrations/` the schema per dialect; `transaction` and `store` implement the ports over them.
Documents are kept as JSON text, columns only for what is searched, ordered or counted.
Instants are microseconds since 1970 UTC in columns.
"""
