"""Consuming: a cluster's queue across every loss of connection, and announcements."""
