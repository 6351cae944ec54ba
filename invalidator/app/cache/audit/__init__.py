"""Hits that are compared with the source, after they were answered. Start with `comparison`.

a hit ─> sampling: in the sample? ─> answered ─> a thread or a task: comparison ─> account: counts, log, bound
"""
