"""Adds to setup.cfg what has to be computed: man pages, the text for a package index, the files of an sdist."""

import re
import sys
from pathlib import Path

from setuptools import setup  # isort: skip  it brings distutils
from distutils.command.install_data import install_data

from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
#: The public address of a file of the repository, with {path}; None while there is none. Links of the README become
#: links to it on a package index. Without it they name the file, and pictures are replaced by their description.
FILE_URL: str | None = None
#: Folders and files that an sdist holds beside the packages, so that it can run its tests.
IN_SDIST = (".ci", ".github", "cli", "conf", "invalidator", "tests", "CHANGES.rst", "dev")
NOT_IN_SDIST = re.compile(r"\.egg-info|__pycache__")


class InstallData(install_data):
    """Installs man pages beside the files of setup.cfg. They are made from the help of the commands."""

    def run(self) -> None:
        sys.path.insert(0, str(ROOT))
        from cli.man import write_pages  # noqa: PLC0415  click is there only while something is built

        folder = Path(self.get_finalized_command("build").build_base, "man")
        self.data_files.append(("share/man/man1", write_pages(folder, self.distribution.get_version())))
        super().run()


class Sdist(sdist):
    """Adds everything that a run of the tests needs."""

    def make_distribution(self) -> None:
        self.filelist.extend(str(path) for name in IN_SDIST for path in files_of(Path(name)))
        self.filelist.remove_duplicates()
        super().make_distribution()


def files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and not NOT_IN_SDIST.search(str(file))]


def long_description(readme: str, *, file_url: str | None) -> str:
    """Return the README with links and pictures that work outside of the repository."""

    def link(match: re.Match[str]) -> str:
        text, path = match.groups()
        return f"`{text} <{file_url.format(path=path)}>`_" if file_url else f"{text} (``{installed(path)}``)"

    def picture(match: re.Match[str]) -> str:
        path, description = match.groups()
        return f".. image:: {file_url.format(path=path)}\n   :alt: {description}" if file_url else f"[{description}]"

    readme = re.sub(r"`([^`<]+)\s<(?!\w+:)([^>]+)>`_", link, readme)
    readme = re.sub("``(conf/[^`]+)``", lambda match: f"``{installed(match[1])}``", readme)
    return re.sub(r"\.\. image:: (?!\w+:)(\S+)\n   :alt: (.+)", picture, readme)


def installed(path: str) -> str:
    """Return where a file of the repository is after the installation."""
    return re.sub("^conf/", "share/invalidator/", path)


if __name__ == "__main__":
    setup(
        cmdclass={"install_data": InstallData, "sdist": Sdist},
        long_description=long_description((ROOT / "README.rst").read_text(), file_url=FILE_URL),
    )
