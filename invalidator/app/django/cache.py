"""A cache backend for Django whose `get_or_set` never stores a value that was evicted while it was loaded.

    CACHES = {
        "default": {
            "BACKEND": "invalidator.app.django.cache.LookAsideBackend",
            "LOCATION": ["cache-1:11211", "cache-2:11211"],
        }
    }

Keys are Django's: ``:1:product:17`` for "product:17". So set ``memcached.prefix = ":1:"`` in the worker's settings:
``KEY_PREFIX``, a colon, the version, a colon.
"""

from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured

from invalidator.app.cache.items import LEASE, NOTHING, Item, Json, Serializer, decode, encode
from invalidator.app.cache.lookaside import LookAsideCache
from invalidator.app.cache.reader import LONGEST_TTL


class LookAsideBackend(PyMemcacheCache):
    """Django's pymemcache backend with values in JSON, and `LookAsideCache` for `get_or_set`.

    ``OPTIONS`` go to `LookAsideCache` (``serializer``, ``patience``, ``max_lag``). A plain `set` after a slow read can
    store an old value, as with every backend.
    """

    def __init__(self, server: Any, params: Mapping[str, Any]) -> None:
        options = dict(params.get("OPTIONS") or {})
        if options.get("audit") and not options.get("audit_source"):
            raise ImproperlyConfigured(
                "OPTIONS: audit needs audit_source: a default is read in the thread of its request"
            )
        serde = _Serde(options.get("serializer") or Json())
        super().__init__(server, {**params, "OPTIONS": {"serde": serde}})
        self._lookaside = LookAsideCache(self._servers, **options)

    def get_or_set(self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Return the value of `key`, or `default`, called if it is callable, which is stored if it is still valid."""
        load = default if callable(default) else lambda: default
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if seconds is not None and seconds <= 0:
            return load()
        ttl = LONGEST_TTL if seconds is None else min(seconds, LONGEST_TTL)
        return self._lookaside.get_or_load(self.make_and_validate_key(key, version=version), load, ttl=ttl)

    async def aget_or_set(
        self,
        key: str,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,  # noqa: ASYNC109  the name is Django's
        version: int | None = None,
    ) -> Any:
        """Return the value of `key` as `get_or_set` does."""
        return await sync_to_async(self.get_or_set)(key, default, timeout, version)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`. The placeholder of a reader that is loading it counts as a miss."""
        found = super().get(key, _LOADING, version=version)
        return default if found is _LOADING else found

    def get_many(self, keys: Any, version: int | None = None) -> dict[str, Any]:
        """Return the values of the keys that have one."""
        found = super().get_many(keys, version=version)
        return {key: value for key, value in found.items() if value is not _LOADING}


#: Stands for a reader's placeholder.
_LOADING = object()


class _Serde:
    """Values as `LookAsideCache` stores them, for pymemcache."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer

    def serialize(self, _: Any, value: Any) -> tuple[bytes, int]:
        item = encode(value, self._serializer)
        return item.data, item.flags

    def deserialize(self, _: Any, data: bytes, flags: int) -> Any:
        if flags == LEASE:
            return _LOADING
        assert flags in (0, NOTHING), "another client wrote it"
        return decode(Item(data, flags), self._serializer)
