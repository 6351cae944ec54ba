"""Kafka Connect's schemas: the values that JSON cannot hold, read by their logical types.

    Decimal, VariableScaleDecimal    base64 of a big-endian integer, and a scale    17, or "109.90"
    Date                             days since 1970                                "2026-04-05"
    Time, Timestamp                  milliseconds, microseconds, nanoseconds        "17:31:00", "2026-04-05T17:31:00"
    bytes                            base64                                         hexadecimal digits, "0a1b"

Rules of this file:

1. A value that does not fit its schema is `Unreadable`: only a template that needs it makes its event poison.
2. A whole number stays a number. All others become the text that the database prints.

Sources: org.apache.kafka.connect.data, its JsonConverter, and "Data types" of each connector in Debezium's reference.
"""

import base64
import datetime as dt
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from invalidator.events.quoting import Unreadable, quoted

#: Powers of ten beyond this are a fault, and would take all memory.
SCALE = 1000

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  Connect's timestamps are without a time zone


def read(value: Any, schema: Any) -> Any:
    """Return a value with its logical types read, in it and everything inside it."""
    if value is None or not isinstance(schema, dict):
        return value
    name = str(schema.get("name"))
    if name == _DECIMAL:
        return _converted(partial(_scaled, parameters=schema.get("parameters")), value, name)
    if convert := _LOGICAL.get(name):
        return _converted(convert, value, name)
    return _inside(value, schema)


def _inside(value: Any, schema: Mapping[str, Any]) -> Any:
    match schema.get("type"):
        case "struct" if isinstance(value, dict):
            return value | {name: read(value[name], field) for name, field in _fields(schema) if name in value}
        case "array" if isinstance(value, list):
            return [read(item, schema.get("items")) for item in value]
        case "bytes":
            return _converted(_hexadecimal, value, "bytes")
    return value


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, Any]]:
    fields = schema.get("fields")
    named = [field for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []
    return [(field["field"], field) for field in named if isinstance(field.get("field"), str)]


def _converted(convert: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, LookupError, OverflowError):
        return Unreadable(f"{quoted(str(value))}, which is not the {quoted(name)} that its schema says")


def _variable_decimal(value: Any) -> int | str:
    return _scaled(value["value"], value)


def _scaled(encoded: Any, parameters: Any) -> int | str:
    scale = int(parameters["scale"])
    unscaled = int.from_bytes(base64.b64decode(encoded, validate=True), "big", signed=True)
    if abs(scale) > SCALE:
        raise ValueError("scale out of range")
    if scale <= 0:
        return int(unscaled * 10**-scale)
    digits = str(abs(unscaled)).zfill(scale + 1)
    return f"{'-' * (unscaled < 0)}{digits[:-scale]}.{digits[-scale:]}"


def _hexadecimal(value: Any) -> str:
    return base64.b64decode(value, validate=True).hex()


def _bits(value: Any) -> int:
    return int.from_bytes(base64.b64decode(value, validate=True), "little")


def _date(value: Any) -> str:
    return (_EPOCH + dt.timedelta(days=value)).date().isoformat()


def _since(form: Callable[[dt.datetime], str], per_second: int) -> Callable[[Any], str]:
    """Return the function that formats a count of units, `per_second` of them a second."""

    def convert(value: Any) -> str:
        return form(_EPOCH + dt.timedelta(microseconds=value * 1_000_000 // per_second))

    return convert


def _moment(at: dt.datetime) -> str:
    return at.isoformat()


def _time(at: dt.datetime) -> str:
    return at.time().isoformat()


_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_MILLI, _MICRO, _NANO = 10**3, 10**6, 10**9
_LOGICAL: dict[str, Callable[[Any], Any]] = {
    "org.apache.kafka.connect.data.Date": _date,
    "org.apache.kafka.connect.data.Time": _since(_time, _MILLI),
    "org.apache.kafka.connect.data.Timestamp": _since(_moment, _MILLI),
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "io.debezium.data.Bits": _bits,
    "io.debezium.time.Date": _date,
    "io.debezium.time.Time": _since(_time, _MILLI),
    "io.debezium.time.MicroTime": _since(_time, _MICRO),
    "io.debezium.time.NanoTime": _since(_time, _NANO),
    "io.debezium.time.Timestamp": _since(_moment, _MILLI),
    "io.debezium.time.MicroTimestamp": _since(_moment, _MICRO),
    "io.debezium.time.NanoTimestamp": _since(_moment, _NANO),
}
