"""Measuring how often the caches are wrong: committed changes are sampled, and their keys compared with the source.

changes (log, events) ─> sample: 1 % of the keys ─> tracker: 0.1, 1, 10, 60 s later ─> sandwich on every node ─> verdict
                                                                                                           │
          report, metrics: "at least 5.9 nines within 1 s" <── bound <── account (a file) <────────────────┤
                                                          repair: remove the stale item <── still stale ───┘
"""
