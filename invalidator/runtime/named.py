"""Functions of the application that a setting names."""

import pkgutil
from collections.abc import Callable
from typing import Any

from invalidator.errors import ConfigurationError


def function_named(name: str, what: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; `what` is its name in errors.

    Raises:
        ConfigurationError: it cannot be imported, or is no function.
    """
    try:
        function: Callable[..., Any] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f'the {what} "{name}" cannot be imported: {error}') from error
    if not callable(function):
        raise ConfigurationError(f'the {what} "{name}" is not a function')
    return function
