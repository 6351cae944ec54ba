"""Reading through memcached so that no old value is ever stored: start at `reader`."""
