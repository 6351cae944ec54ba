"""`track` on SQLite; ``integration/test_tracking.py`` has PostgreSQL and asyncio."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import tracking_conformance


class TestSqlite(tracking_conformance.Conformance):
    @pytest.fixture
    def empty(self, tmp_path: Path) -> Iterator[sa.Engine]:
        engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
        yield engine
        engine.dispose()
