"""Settings for tests: a file written into an empty folder, loaded, or refused."""

from pathlib import Path

import pytest

from invalidator.errors import ConfigurationError
from invalidator.settings import Settings, load
from invalidator.settings import loading as loading_module


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter an empty working directory, and hide the machine's own file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading_module, "SYSTEM_FILE", tmp_path / "etc" / "invalidator.toml")
    return tmp_path


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def loaded(text: str, environ: dict[str, str] | None = None) -> Settings:
    return load(written(Path("given.toml"), text), environ or {})


def refusal(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text, environ)
    return str(caught.value)


def password(settings: Settings) -> str | None:
    return settings.broker.password.reveal() if settings.broker.password else None
