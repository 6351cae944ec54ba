"""The sdist and the wheel: everything that an operator needs is in them, and the sdist can run its tests."""

import zipfile
from pathlib import Path

import pytest

from tests.integration import release
from tests.pages import broken_links, written
from tests.test_packaging import CONF, MAN_PAGES


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release.sdist(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    return release.wheel(sdist)


def test_the_wheel_holds_every_file_of_conf_the_changelog_and_a_man_page_for_each_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        data = {name.partition(".data/data/")[2] for name in archive.namelist()} - {""}
    in_conf = {f"share/invalidator/{file.relative_to(CONF)}" for file in written(CONF)}
    assert in_conf | {"share/invalidator/CHANGES.rst"} | {f"share/man/man1/{name}" for name in MAN_PAGES} == data


def test_no_link_between_the_installed_pages_is_broken(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    pages = sorted(tmp_path.glob("*.data/data/share/invalidator/**/*.rst"))
    assert {"README.rst", "audit.rst", "runbook.rst", "upgrade.rst", "users.rst", "CHANGES.rst"} == {
        page.name for page in pages
    }
    assert {} == {page.name: links for page in pages if (links := broken_links(page))}


def test_the_wheel_holds_the_architecture_and_the_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {"invalidator/ARCHITECTURE.rst", "invalidator/py.typed", "invalidator_cli/py.typed"} <= set(
            archive.namelist()
        )


def test_the_sdist_can_run_its_tests(sdist: Path) -> None:
    """Run tests of pages and packaging, which read most files, and one of the code."""
    names = ("handbook", "packaging", "conf", "planner")
    release.python("-m pytest -q -p no:cacheprovider", *(f"tests/test_{name}.py" for name in names), cwd=sdist)
