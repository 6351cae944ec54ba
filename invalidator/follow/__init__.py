"""Following PostgreSQL's own log: one event for each changed row, published once the change can be seen.

slot (pgoutput) ─> stream ─> pgoutput: messages ─> gate: visible? ─> follower: rows that a rule is for ─> RabbitMQ
     ▲                                                                                                      │
     └──────────── the position moves on once everything before it is confirmed ────────────────────────────┘
"""
