"""The truth about a key: the content that the application's own source gives for it.

The *source* is a function of the application. It gets a key, and returns a function that reads the key's truth from the
primary, or None if the key cannot be audited::

    def source(key: str) -> Callable[[], object] | None:
        kind, _, id = key.partition(":")
        if kind == "product":
            return lambda: read_product(id)         # what `load` of LookAsideCache returns for this key
        return None

Rules of this file:

1. Contents are compared, never versions: the worst known bug of this kind had the new version beside the old content.
2. A value is compared as `LookAsideCache` stores it: as JSON, read back. `bytes` are compared as they are, for keys of
   other clients and other serializers.
3. An item that cannot be read proves nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from invalidator.app.cache.items import Item, Json, UnreadableError, decode, encode
from invalidator.errors import ConfigurationError, InvalidatorError
from invalidator.runtime.named import function_named

#: Reads the truth of a key: a new read of the primary, in no transaction that was open before.
Read = Callable[[], object]
#: Returns the function that reads a key's truth, or None if the key cannot be audited. Must not block.
Source = Callable[[str], Read | None]

_JSON = Json()


class SourceError(InvalidatorError):
    """Raised when the source could not be read, or returned what cannot be compared."""


class Truth(NamedTuple):
    """The content of a key, as the source gave it."""

    content: Any

    @classmethod
    def of(cls, value: object) -> "Truth":
        """Return the truth of what a source returned; raise `SourceError` if it cannot be compared."""
        if isinstance(value, bytes):
            return cls(value)
        try:
            return cls(decode(encode(value, _JSON), _JSON))
        except Exception as error:
            raise SourceError(
                f"a {type(value).__qualname__} cannot be compared ({error}): return what JSON holds, or bytes"
            ) from error

    def equals(self, item: Item) -> bool | None:
        """Return True if the item holds this content, None if it cannot be read."""
        if isinstance(self.content, bytes):
            return item.data == self.content
        try:
            return bool(decode(item, _JSON) == self.content)
        except UnreadableError:
            return None


def source_of(name: str | None) -> Source:
    """Return the function that "package.module:function" names.

    Raises:
        ConfigurationError: no name is given, or it names no function that can be imported.
    """
    if name is None:
        raise ConfigurationError("no source is named: use --source package.module:function, or audit.source")
    return function_named(name, "source")
