"""Questions to a PostgreSQL server: connections, queries with a deadline, and what a new read sees."""
