"""The caches' memcached nodes: sockets of their own, for threads and for asyncio, and one pure parser for both."""
