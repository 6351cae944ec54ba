"""Committed changes as an auditor samples them: from the events on the exchange, and from PostgreSQL's own log."""
