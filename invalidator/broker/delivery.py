"""One message as the broker delivered it; its properties are decoded only as far as they are needed."""

from collections.abc import Sequence
from struct import Struct
from typing import Protocol

import msgspec
from aiormq.abc import DeliveredMessage
from pamqp import commands

from invalidator.broker.header import (
    FLAGS_AT,
    REPLY_TO,
    Meaning,
    Properties,
    forms,
    learn,
    properties_of,
    short_string,
    text,
)

_TAG = Struct(">Q").unpack_from


class Delivery(Protocol):
    """One message of a batch; its ``tag`` is valid only on the channel that delivered it."""

    @property
    def tag(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def properties(self) -> Properties: ...
    @property
    def header(self) -> bytes:
        """The content header's payload from the property flags on."""
        ...

    def meaning(self) -> Meaning: ...


class TappedDelivery(msgspec.Struct, gc=False):
    """A delivery as three byte strings, straight from the frames."""

    #: Basic.Deliver's arguments behind the consumer tag: delivery tag, redelivered, exchange, routing key.
    method: bytes
    #: The content header's payload from the property flags on.
    header: bytes
    body: bytes

    @property
    def tag(self) -> int:
        return int(_TAG(self.method)[0])

    @property
    def exchange(self) -> str:
        return short_string(self.method, 9)

    @property
    def properties(self) -> Properties:
        return properties_of(self.header)

    def meaning(self) -> Meaning:
        """Return the properties that matter, without decoding the others."""
        header = self.header
        form = forms.get(len(header)) or learn(header)
        start, middle, id, end = form.unpack(header)
        if not (start == form.start and middle == form.middle and end == form.end):
            form = learn(header)
            id = form.unpack(header)[2]
        headers = self.properties.headers if form.may_be_cloud_event else None
        return form.type, form.encoding, text(id) if form.has_id else None, headers, form.content_type


class DecodedDelivery:
    """A delivery as aiormq's own consumer hands it over."""

    __slots__ = ("body", "exchange", "header", "properties", "tag")

    def __init__(self, message: DeliveredMessage) -> None:
        deliver = message.delivery
        assert isinstance(deliver, commands.Basic.Deliver)
        assert deliver.delivery_tag is not None
        self.tag = deliver.delivery_tag
        self.body = message.body
        self.exchange = deliver.exchange or ""
        self.properties = message.header.properties
        self.header = message.header.marshal()[FLAGS_AT:]

    def meaning(self) -> Meaning:
        its = self.properties
        return its.message_type, its.content_encoding, its.message_id, its.headers, its.content_type


def wanting_receipts(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return the deliveries with a reply-to; every message is tested, so the test reads only one byte of each."""
    return [delivery for delivery in deliveries if delivery.header[0] & REPLY_TO]
