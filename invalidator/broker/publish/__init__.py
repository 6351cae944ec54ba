"""Publishing with confirms: from asyncio, from threads, and with many messages in flight."""
