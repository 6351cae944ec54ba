"""The examples in the docstrings of the application's half run."""

import asyncio
import doctest
from typing import Any

import pytest

from invalidator import app

from .conftest import MemcachedFactory

NAMES = ["AsyncLookAsideCache", "Json", "Loaded", "LookAsideCache", "Reads"]


@pytest.mark.parametrize("name", NAMES)
def test_example_in_the_docstring_runs(name: str, memcached: MemcachedFactory) -> None:
    address = memcached().address
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    names: dict[str, Any] = {name: getattr(app, name) for name in NAMES} | {"asyncio": asyncio}
    tests = [test for test in finder.find(names[name], name, module=False, globs=names) if test.examples]
    assert tests, f"{name} has no example"
    said: list[str] = []
    for test in tests:
        for example in test.examples:
            example.source = example.source.replace("127.0.0.1:11211", address)
        runner.run(test, out=said.append, clear_globs=False)
        if "cache" in test.globs:
            test.globs["cache"].close()
    assert (0, "") == (runner.failures, "".join(said))
