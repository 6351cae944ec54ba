"""Copies of values in the process itself, forgotten as soon as a worker announces their keys."""
