"""Everything long-running services share: signals, systemd, logs, health and metrics."""
