"""The bytes of a body, read as JSON, or refused with the reason.

RFC 8259 is read as it is written, and two things more than msgspec reads: a byte order mark is skipped, and half of a
surrogate pair in an escape ("\\ud83d", as a JavaScript string cut inside an emoji is written) stays in its string. Only
a template that needs that string refuses it.
"""

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any

import msgspec

from invalidator.errors import PoisonError
from invalidator.events.quoting import quoted

#: Values of the AMQP property content_encoding that leave the body as it is; compared in lower case. kombu writes the
#: ones of MIME.
PLAIN = {"utf-8", "utf8", "utf-8-sig", "identity", "binary", "us-ascii", "ascii", "8bit", "7bit"}

#: All that msgspec raises for a body that it cannot read.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

from_json = msgspec.json.Decoder().decode

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
#: Starts of bodies that are not UTF-8 JSON, and their names. JSON begins with two ASCII characters.
_FOREIGN = (
    (re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0|\0[^\0]"), "UTF-16"),
    (re.compile(rb"\0\0"), "UTF-32"),
    (re.compile(rb"\x1f\x8b"), "compressed with gzip"),
)


def reread(body: bytes, error: Exception) -> Any:
    """Return the value of a body for which `from_json` raised `error`, or else raise the reason.

    Raises:
        PoisonError: unknown-encoding, not-json, bad-utf8, too-deep or wrong-type.
    """
    if body.startswith(BOM_UTF8):
        body = body.removeprefix(BOM_UTF8)
        try:
            return from_json(body)
        except UNREADABLE as inner:
            error = inner
    if _SURROGATE.search(body):
        try:
            return json.loads(body.decode(), parse_float=_finite, parse_constant=_refused)
        except (ValueError, RecursionError):
            pass  # it has another fault, too
    raise _unreadable(error, body) from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _unreadable(error: Exception, body: bytes) -> PoisonError:
    for start, name in _FOREIGN:
        if start.match(body):
            return PoisonError("unknown-encoding", f"the body is {name}: publish plain UTF-8 JSON")
    if isinstance(error, UnicodeDecodeError):
        return PoisonError(
            "bad-utf8", f"the body holds bytes that are not UTF-8, from {quoted(error.object[error.start :])} on"
        )
    if isinstance(error, RecursionError):
        return PoisonError("too-deep", "the body is nested too deeply")
    if isinstance(
        error, msgspec.ValidationError
    ):  # an untyped decoder raises it for one thing: a number of 4,301 digits
        return PoisonError("wrong-type", f"the body holds a number that is too large: {quoted(body)}")
    return PoisonError("not-json", f"the body is not JSON ({error}): {quoted(body)}")
