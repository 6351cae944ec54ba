"""Values of any type that msgspec knows are cached as they are, or refused."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from invalidator.app import Json, Serializer, Typed


@dataclass
class Product:
    id: UUID
    price: Decimal
    changed: datetime
    picture: bytes
    sizes: tuple[int, str]
    stock: dict[int, int]
    tags: frozenset[str]


class Money(msgspec.Struct):
    amount: Decimal
    currency: str = "EUR"


PRODUCT = Product(
    UUID(int=7), Decimal("109.90"), datetime(2026, 1, 2, 3, tzinfo=UTC), b"\xff\0", (1, "a"), {7: 1}, frozenset({"a"})
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Product, PRODUCT),
        (Money, Money(Decimal("0.10"))),
        (list[Money] | None, [Money(Decimal(1), "USD")]),
        (Decimal, Decimal("1E+2")),
        (date, date(2026, 1, 2)),
        (bytes, b"\xff"),
        (UUID, UUID(int=1)),
        (tuple[int, ...], (1, 2)),
        (dict[int, str], {1: "a"}),
        (Any, {"plain": [1, None, True, "ü"]}),
    ],
)
def test_value_comes_back_as_it_went_in(kind: Any, value: Any) -> None:
    serializer = Typed(kind)
    found = serializer.loads(serializer.dumps(value))
    assert (type(value), value) == (type(found), found)


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        (Typed(Any), (1, 2)),
        (Typed(Any), {1: 2}),
        (Typed(Any), Decimal(1)),
        (Typed(Any), b"bytes"),
        (Typed(Decimal), 0.1),
        (Typed(float), float("nan")),
        (Typed(Money), {"amount": "1"}),
        (Typed(Money), None),
        (Typed(int), True),
        (Typed(list[int]), object()),
        (Json(), (1, 2)),
        (Json(), {1: 2}),
        (Json(), Decimal(1)),
        (Json(), PRODUCT),
        (Json(), "\ud83d"),
        (Json(), [float("nan")]),
    ],
)
def test_value_that_would_come_back_changed_is_refused(serializer: Serializer, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        serializer.dumps(value)


def test_json_says_that_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        Json().dumps({"price": float("nan")})
