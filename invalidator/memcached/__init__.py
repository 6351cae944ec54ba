"""Everything that is sent to memcached: which nodes own a key, and deletes that a fence confirms."""
