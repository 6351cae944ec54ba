"""The language of the house: docstrings that say what a thing does or is, and no private words for standard things."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("invalidator", "cli", "tests") for path in (ROOT / folder).rglob("*.py"))
PRODUCT = [path for path in PYTHON if path.relative_to(ROOT).parts[0] != "tests"]
CONF = sorted(
    path for path in (ROOT / "conf").rglob("*") if path.suffix in {".rst", ".toml", ".yml", ".service", ".conf"}
)
PAGES = [ROOT / "README.rst", *sorted((ROOT / "invalidator").rglob("*.rst")), *CONF]

QUESTION = re.compile(r"(What|Whatever|Whether|Who|Whoever|Whom|Whose|Where|How|Why)\b")
#: Word -> what the field says instead.
RETIRED = {
    r"mend(s|ed|ing)?": "fix",
    r"(?<!dead )(?<!dead-)(?<!-)letters?(?! of the alphabet)": "dead letter, or message",
    r"whoever": "the one who acts, by name",
    r"onlookers?|a look\b|(mere|one) look|look(s|ed)? at": "check, inspect",
    r"told(?! apart)|tells of": "report, log, notify",
    r"hears?|heard": "receive",
    r"news": "ready, wakeup",
    r"good-?byes?": "close",
    r"(is|are) none": "is not a ...",
    r"struck off|strike off": "expire",
    r"bury|buries|buried": "dead-letter",
    r"owes?|owed|owing": "parked, a debt of",
    r"so many": "a number, by name",
}
RETIRED_WORD = re.compile("|".join(rf"\b(?:{word})\b" for word in RETIRED), re.IGNORECASE)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_says_what_calling_does_or_what_a_thing_is(path: Path) -> None:
    opened = [f"{line}: {text.splitlines()[0]}" for line, text in docstrings(path) if QUESTION.match(text)]
    assert [] == opened


@pytest.mark.parametrize("path", [*PRODUCT, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_standard_things_have_the_names_that_the_field_gives_them(path: Path) -> None:
    said = prose(path) if path.suffix == ".py" else enumerate(path.read_text().splitlines(), start=1)
    retired = [
        f"{line}: {found[0]!r} in: {text.strip()}" for line, text in said if (found := RETIRED_WORD.search(text))
    ]
    assert [] == retired


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every comment and every string in a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for number, text in enumerate(token.string.splitlines()):
                yield token.start[0] + number, text
