"""The names that an application imports: each has an example that runs, and types that a user's mypy understands."""

import ast
import inspect
import subprocess
import sys
import sysconfig
import textwrap
import venv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from invalidator import app
from invalidator.operate.topology import declared
from tests.integration.shop import settings_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "conf" / "examples"
#: The name of the examples' broker.
BROKER = "amqp://shop@rabbitmq.internal/"
NAMES = [
    "AsyncNearCache",
    "AsyncPublisher",
    "Event",
    "EventBus",
    "LocalEventBus",
    "NearCache",
    "Outbox",
    "Publisher",
    "RabbitEventBus",
]


@pytest.fixture
async def names(vhost: str) -> AsyncIterator[dict[str, Any]]:
    """Return what the examples need: every public name, a broker, a database with a product."""
    await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
    products = sa.Table(
        "product", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("price", sa.Float)
    )
    engine = sa.create_engine("sqlite://")
    products.create(engine)
    app.Outbox().create(engine)
    given = {"engine": engine, "products": products, "update": sa.update, "prices": {}}
    yield {name: getattr(app, name) for name in dir(app)} | given
    engine.dispose()


@pytest.mark.parametrize("name", NAMES)
async def test_the_example_of_a_public_name_runs(name: str, names: dict[str, Any], vhost: str) -> None:
    code = compile(example(name, vhost), f"<{name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if waiting := eval(code, names):
        await waiting
    for made in ("publisher", "bus", "cache", "shared"):
        if close := getattr(names.get(made), "close", None):
            close() if name != "AsyncPublisher" else await close()


def example(name: str, url: str) -> str:
    """Return the code in a docstring, with another broker, on a busy machine."""
    _, _, after = (inspect.getdoc(getattr(app, name)) or "").partition("::\n\n")
    assert after, f"{name} has no example"
    lines = []
    for line in after.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    patience = ", timeout=20.0" if "timeout" in inspect.signature(getattr(app, name)).parameters else ""
    return textwrap.dedent("\n".join(lines)).replace(f'"{BROKER}"', f'"{url}"{patience}')


def test_a_process_that_only_reads_does_not_load_the_publishers() -> None:
    loaded = "import sys, invalidator.app; print([name for name in ('pika', 'aio_pika') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="Publischer"):
        getattr(app, "Publischer")  # noqa: B009


@pytest.mark.timeout(180)
def test_the_examples_pass_a_users_mypy(cache: pytest.Cache, tmp_path: Path) -> None:
    """Run mypy --strict against the package as it is installed elsewhere, where it has to declare that it is typed."""
    pytest.importorskip("mypy")
    # What mypy found out about other packages is kept for the next run: it takes most of the time.
    elsewhere = cache.mkdir("user")
    venv.create(elsewhere / "venv", clear=True)
    packages = next((elsewhere / "venv").glob("lib/python3*/site-packages"))
    (packages / "invalidator").symlink_to(ROOT / "invalidator")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name == "_pytest" or not package.name.startswith(("_", "invalidator")):
            (packages / package.name).symlink_to(package)
    # Not Django's, which has no types of its own.
    files = [str(file) for file in EXAMPLES.glob("*.py") if file.stem != "django_models"]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        str(elsewhere / "venv/bin/python"),
        "--cache-dir",
        str(elsewhere / "mypy"),
        *files,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout
