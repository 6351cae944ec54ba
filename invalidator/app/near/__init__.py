"""Copies of values in the application's own process, dropped as soon as a worker announces their keys."""
