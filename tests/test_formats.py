"""The invariant: a message of any format is an event, or poison."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import EVICT
from invalidator.events.rules import Rules
from invalidator.events.types import TypeSource
from tests.foreign import POSTGRESQL, read

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CE_NAMES = ["specversion", "type", "data", "data_base64", "ce"]
DEBEZIUM_NAMES = ["schema", "payload", "before", "after", "op", "source", "ts_ms", "__table", "__op", "__deleted"]
SCHEMA_NAMES = ["type", "name", "field", "fields", "items", "parameters", "scale"]
SCHEMA_VALUES = [
    "struct",
    "array",
    "bytes",
    "before",
    "org.apache.kafka.connect.data.Decimal",
    "0",
    "io.debezium.time.Date",
]
SCHEMAS = st.recursive(
    JSON | st.sampled_from(SCHEMA_VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SCHEMA_NAMES), inner, max_size=5),
    max_leaves=10,
)
FOREIGN = st.recursive(
    st.dictionaries(
        st.sampled_from(CE_NAMES + DEBEZIUM_NAMES), JSON | st.sampled_from(["1.0", "t", "d", POSTGRESQL]), max_size=6
    ),
    lambda inner: st.fixed_dictionaries({"schema": JSON | SCHEMAS, "payload": inner}),
    max_leaves=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-specversion", "cloudEvents:type", "ce-type", "x"]) | st.text(),
    st.just("1.0") | st.integers() | st.binary() | st.none() | st.datetimes(),
)


CONTENT_TYPES = st.none() | st.sampled_from(
    ["application/json", "application/cloudevents+json", "application/cloudevents-batch+json"]
)
SOURCES = st.none() | st.builds(TypeSource, header=st.none() | st.just("x"), field=st.none() | st.just("before.type"))
BODIES = FOREIGN | st.lists(FOREIGN, max_size=2) | st.binary(max_size=20) | st.none()


@given(BODIES, st.none() | HEADERS, st.none() | st.text(), CONTENT_TYPES, SOURCES)
def test_whatever_is_sent_is_an_event_or_poison(
    body: Any, headers: Any, type: str | None, content_type: str | None, source: TypeSource | None
) -> None:
    try:
        event = read(body, headers=headers, type=type, content_type=content_type, source=source)
        Rules([(event.type, ["product:{id}", "{before.id?}", "{ce.id?}"])]).keys(event)
    except PoisonError as error:
        assert len(str(error)) < 1000
    except ConfigurationError:
        assert event.type == EVICT
    else:
        assert event.type
