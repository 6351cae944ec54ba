"""The codec of AMQP content headers: it finds the few properties that matter without decoding the others.

A publisher writes the same header again and again, so it is taken apart once, and its form is remembered. Source of the
layout: AMQP 0-9-1, section 2.3.5.2.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec
from pamqp import commands

from invalidator.broker.wire.number import DIGITS, LENGTH, digits_at
from invalidator.broker.wire.timestamp import MILLISECONDS
from invalidator.events.cloudevents import SPECVERSION

Properties = commands.Basic.Properties

_FLAGS = Struct(">H").unpack_from
_LENGTH = Struct(">L").unpack_from

#: Offset of the property flags in a content header: behind class, weight and body size.
FLAGS_AT = 12
CONTENT_TYPE, ENCODING, HEADERS, MESSAGE_ID, TYPE = 1 << 15, 1 << 14, 1 << 13, 1 << 7, 1 << 5
#: The property `reply-to`, 1 << 9, in the first of the two bytes of flags.
REPLY_TO = 1 << 1
#: The properties up to `type` in their order: flag, and bytes; 0 for a short string, -1 for a table.
LAYOUT = (
    (CONTENT_TYPE, 0),
    (ENCODING, 0),
    (HEADERS, -1),
    (1 << 12, 1),  # delivery mode
    (1 << 11, 1),  # priority
    (1 << 10, 0),  # correlation id
    (1 << 9, 0),  # reply to
    (1 << 8, 0),  # expiration
    (MESSAGE_ID, 0),
    (1 << 6, 8),  # timestamp
    (TYPE, 0),
)

#: The beginning of the header that says when a message was published: its name, and the type of its value, 8 bytes.
_STAMP = bytes([len(MILLISECONDS)]) + MILLISECONDS.encode() + b"l"


class Form(msgspec.Struct, frozen=True):
    """A content header as one publisher writes it again and again: only id, number and the two timestamps differ.

    Headers of the same length that are equal in all other parts have the same meaning except for the id.
    """

    #: Cuts a header into start, between, middle, id and end, and skips timestamps and number between them.
    unpack: Callable[[bytes], tuple[bytes, ...]]
    #: From the property flags up to the milliseconds in the header `timestamp_in_ms`; empty without it.
    start: bytes
    #: From there up to the digits of the event's number; empty without one.
    between: bytes
    #: From there up to the message id, including its length.
    middle: bytes
    #: From the type on; in a header without a type, from behind the timestamp.
    end: bytes
    has_id: bool
    type: str | None
    encoding: str | None
    content_type: str | None
    may_be_cloud_event: bool


#: The last form of each length: one publisher's headers are equally long, and a worker meets a few dozen publishers.
forms: dict[int, Form] = {}
#: Number of forms at which all are forgotten, and bytes above which a header is not remembered.
FORMS, FORM_BYTES = 256, 1024


def learn(header: bytes) -> Form:
    """Find the properties by walking over those before them, and remember their positions."""
    flags = _FLAGS(header)[0]
    at = id_at = 2
    milliseconds_at = number_at = 0
    found: dict[int, str] = {}
    for flag, length in LAYOUT:
        if flag == MESSAGE_ID:
            id_at = at
        elif flag == TYPE:
            end_at = at
        if not flags & flag:
            continue
        if flag & (CONTENT_TYPE | ENCODING | TYPE):
            found[flag] = short_string(header, at)
        if length < 0:
            milliseconds_at = _milliseconds(header, at)
            behind = at + 4 + int(_LENGTH(header, at)[0])
            number_at = digits_at(header, milliseconds_at or at, behind - LENGTH)
            at = behind
        else:
            at += length or 1 + header[at]
    has_id = bool(flags & MESSAGE_ID)
    # The id's length is compared, too: another length would move the properties behind it.
    id_end = id_at + 1 + header[id_at] if has_id else id_at
    id_at += has_id
    stamp, digits = 8 if milliseconds_at else 0, DIGITS if number_at else 0
    stamp_end = milliseconds_at + stamp
    number_at = number_at or stamp_end
    start, between, middle = header[:milliseconds_at], header[stamp_end:number_at], header[number_at + digits : id_at]
    end = header[end_at:]
    cut = f"{len(start)}s{stamp}x{len(between)}s{digits}x{len(middle)}s{id_end - id_at}s{end_at - id_end}x{len(end)}s"
    form = Form(
        unpack=Struct(cut).unpack,
        start=start,
        between=between,
        middle=middle,
        end=end,
        has_id=has_id,
        type=found.get(TYPE),
        encoding=found.get(ENCODING),
        content_type=found.get(CONTENT_TYPE),
        may_be_cloud_event=bool(flags & HEADERS) and SPECVERSION.encode() in header[:id_at],
    )
    if len(forms) >= FORMS:
        forms.clear()
    if len(header) <= FORM_BYTES:
        forms[len(header)] = form
    return form


def _milliseconds(header: bytes, table_at: int) -> int:
    """Return the offset of the value of `timestamp_in_ms` in the table that begins there; 0 if it is not in it."""
    end = table_at + 4 + int(_LENGTH(header, table_at)[0])
    found = header.find(_STAMP, table_at, end - 8)
    return found + len(_STAMP) if found >= 0 else 0


def short_string(data: bytes, at: int) -> str:
    """Decode the short string that begins there."""
    return text(data[at + 1 : at + 1 + data[at]])


def text(data: bytes) -> str:
    """Decode bytes of any publisher so that they are readable, even if they are not UTF-8."""
    return data.decode("utf-8", "backslashreplace")


#: (type, content encoding, message id, headers, content type), each None if the publisher set none. The headers are
#: None, too, if they cannot hold a CloudEvent.
Meaning = tuple[str | None, str | None, str | None, dict[str, Any] | None, str | None]
