"""Foreign data as error messages show it: quoted, cut and escaped, or by the name of its JSON type."""


class Unreadable:
    """A value that is there and cannot be read; a template that needs it makes its event poison."""

    def __init__(self, why: str) -> None:
        self.why = why


def quoted(data: str | bytes) -> str:
    """Return the first 80 characters of foreign data, escaped, for an error message."""
    text = data[:320].decode(errors="backslashreplace") if isinstance(data, bytes) else data
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def kind(value: object) -> str:
    """Return the JSON name of a value's type with its article, as in "a list"."""
    if isinstance(value, float):
        return f"{value!r}, a number with a decimal point or an exponent"
    if isinstance(value, Unreadable):
        return value.why
    for python, name in _KINDS:
        if isinstance(value, python):
            return name
    return "null"


#: bool comes before int because it is a subclass of int.
_KINDS = (
    (str, "a string"),
    (bool, "true or false"),
    (int, "a number"),
    (list, "a list"),
    (dict, "an object"),
)
