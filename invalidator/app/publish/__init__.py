"""Publishing events: confirmed by the broker, or kept in an outbox until they are."""
