"""Look-aside caching that never stores a stale value. Start with `reader`."""
