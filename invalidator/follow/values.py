"""Values of columns, from PostgreSQL's text to what JSON can hold, without loss.

    integers, true and false, null    as they are          numeric       an integer, else a string: "109.90"
    dates, times                      ISO 8601             json, jsonb   as it is
    bytea                             base64               arrays        lists
    floats                            a number; "NaN" and the infinities are strings
    all else                          PostgreSQL's text

`numeric` with a fraction is a string, because a JSON number becomes a float in most readers, and 109.90 is not 109.9.
"""

import base64
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from psycopg import adapters, postgres, pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.types import TypeInfo

from invalidator.follow.pgoutput import Converter

#: Settings of the replication session on which these conversions rely.
SESSION = "-c datestyle=ISO -c intervalstyle=iso_8601 -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex"
#: OIDs below this one are the server's own types, the same in every database.
FIRST_OWN_OID = 16384

_from_json = msgspec.json.Decoder().decode


def _text(value: bytes) -> str:
    return value.decode()


def _boolean(value: bytes) -> bool:
    return value == b"t"


def _number(value: bytes) -> float | str:
    number = float(value)
    return number if number - number == 0 else value.decode()


def _numeric(value: bytes) -> int | str:
    text = value.decode()
    return int(text) if text.lstrip("-").isdecimal() else text


def _timestamp(value: bytes) -> str:
    """Return ISO 8601; a date before Christ and infinity stay as PostgreSQL writes them."""
    text = value.decode()
    if " BC" in text or text.endswith("infinity"):
        return text
    text = text.replace(" ", "T", 1)
    return f"{text}:00" if text[-3:-2] in ("+", "-") and "T" in text else text


def _binary(value: bytes) -> str:
    return base64.b64encode(bytes.fromhex(value[2:].decode())).decode()


_CONVERTERS: dict[str, Converter] = {
    "int2": int,
    "int4": int,
    "int8": int,
    "oid": int,
    "bool": _boolean,
    "float4": _number,
    "float8": _number,
    "numeric": _numeric,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "bytea": _binary,
    "json": _from_json,
    "jsonb": _from_json,
}


class OwnType(NamedTuple):
    """A type that a database defines itself, as its catalogue describes it."""

    oid: int
    #: Of the elements, for an array; of the type beneath, for a domain; else 0.
    element_oid: int
    base_oid: int


class Values:
    """Finds the converter of each type; knows the database's own types once they were learnt."""

    def __init__(self) -> None:
        self._by_oid = {postgres.types[name].oid: convert for name, convert in _CONVERTERS.items()}
        self._elements = {info.array_oid: info.oid for info in postgres.types if info.array_oid}
        self._bases: dict[int, int] = {}

    def unknown(self, oids: Iterable[int]) -> list[int]:
        """Return those OIDs whose types the catalogue has to be asked for."""
        own = (oid for oid in oids if oid >= FIRST_OWN_OID)
        return [oid for oid in own if oid not in self._by_oid and oid not in self._bases and oid not in self._elements]

    def learn(self, types: Iterable[OwnType]) -> None:
        """Remember types of the database's own, so that `converter` knows domains and arrays of them."""
        for type in types:
            if type.element_oid:
                self._elements[type.oid] = type.element_oid
            self._bases[type.oid] = type.base_oid

    def converter(self, oid: int) -> Converter:
        """Return what turns the text of a value of this type into its JSON value."""
        while base := self._bases.get(oid):
            oid = base
        if element := self._elements.get(oid):
            return _array(self.converter(element), delimiter=b";" if element == BOX else b",")
        return self._by_oid.get(oid, _text)


BOX = postgres.types["box"].oid


def _array(convert: Converter, *, delimiter: bytes) -> Callable[[bytes], list[Any]]:
    """Return a converter of arrays: psycopg splits them, `convert` makes their elements."""

    class Element(Loader):
        def load(self, data: Buffer) -> Any:
            return convert(bytes(data))

    types = AdaptersMap(adapters)
    element = TypeInfo("element", ELEMENT, ARRAY, delimiter=delimiter.decode())
    types.types.add(element)
    types.register_loader(ELEMENT, Element)
    element.register(types_context := _Context(types))
    loader = Transformer(types_context).get_loader(ARRAY, pq.Format.TEXT)

    def load(value: bytes) -> list[Any]:
        loaded: list[Any] = loader.load(value)
        return loaded

    return load


#: Numbers that stand for an array and its elements in a map of their own.
ELEMENT, ARRAY = 1, 2


class _Context:
    """The least that psycopg takes for an adaptation context."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters
