"""The common part of all long-running services: signals, systemd, logs, health and metrics."""
