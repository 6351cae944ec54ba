"""The number of an event: its publisher's epoch, and a count from 1 on; so a reader of the log sees what is missing.

It travels as text of always the same length, so that a worker skips it like the timestamps (`header.py`)::

    x-invalidator-number: 9f3a2c11d04b-0000000811
"""

NUMBER = "x-invalidator-number"
EPOCH_LENGTH, DIGITS = 12, 10
LENGTH = EPOCH_LENGTH + 1 + DIGITS
#: The header's beginning: its name, the type of its value (a long string), and the value's length.
BEGINNING = bytes([len(NUMBER)]) + NUMBER.encode() + b"S" + LENGTH.to_bytes(4)


def in_text(epoch: str, number: int) -> str:
    """Return the header's value."""
    return f"{epoch}-{number:0{DIGITS}d}"


def digits_at(header: bytes, start: int = 0, stop: int | None = None) -> int:
    """Return the offset of the digits in a content header, 0 if its event has no number."""
    at = header.find(BEGINNING, start, stop)
    return at + len(BEGINNING) + EPOCH_LENGTH + 1 if at >= 0 else 0


def number_of(header: bytes) -> tuple[bytes, int] | None:
    """Return an event's epoch and number, None if it has none."""
    at = digits_at(header)
    digits = header[at : at + DIGITS]
    if not at or len(digits) < DIGITS or not digits.isdigit():
        return None
    return header[at - 1 - EPOCH_LENGTH : at - 1], int(digits)
