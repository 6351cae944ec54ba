"""One message as the broker delivered it; its properties are decoded only as far as they are needed."""

from collections.abc import Sequence
from struct import Struct

import msgspec
from aiormq.abc import DeliveredMessage
from pamqp import commands

from invalidator.broker.wire.guard import header_of
from invalidator.broker.wire.header import REPLY_TO, Meaning, Properties, forms, learn, short_string, text
from invalidator.broker.wire.properties import read

_TAG = Struct(">Q").unpack_from
_TAG_AND_REDELIVERED = Struct(">Q?")


class Delivery(msgspec.Struct, gc=False):
    """A message of a batch, as three byte strings; its ``tag`` is valid only on the channel that delivered it."""

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
        """The properties that can be read, each decoded by itself."""
        return read(self.header).properties

    def meaning(self) -> Meaning:
        """Return the properties that matter, without decoding the others."""
        header = self.header
        form = forms.get(len(header)) or learn(header)
        start, between, middle, id, end = form.unpack(header)
        if not (start == form.start and between == form.between and middle == form.middle and end == form.end):
            form = learn(header)
            id = form.unpack(header)[3]
        headers = self.properties.headers if form.may_be_cloud_event else None
        return form.type, form.encoding, text(id) if form.has_id else None, headers, form.content_type


def received(message: DeliveredMessage) -> Delivery:
    """Return a message that aiormq's own consumer hands over, with its header as the broker sent it."""
    deliver = message.delivery
    assert isinstance(deliver, commands.Basic.Deliver)
    exchange = (deliver.exchange or "").encode()
    method = _TAG_AND_REDELIVERED.pack(deliver.delivery_tag, bool(deliver.redelivered))
    return Delivery(method + bytes([len(exchange)]) + exchange, header_of(message), message.body)


def wanting_receipts(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return the deliveries with a reply-to; every message is tested, so the test reads only one byte of each."""
    return [delivery for delivery in deliveries if delivery.header[0] & REPLY_TO]
