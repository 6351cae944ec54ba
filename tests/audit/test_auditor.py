"""An auditor whose process was stopped for a while: what it may have missed is not covered."""

import asyncio
import contextlib
import time
from contextlib import closing
from pathlib import Path

import pytest

from invalidator.audit import auditor as module
from invalidator.audit.account import SavedAccount
from invalidator.audit.auditor import Auditor
from invalidator.audit.verdict import Reason
from invalidator.errors import ConfigurationError
from invalidator.runtime import metrics
from invalidator.settings import AuditSettings, Settings
from tests.logs import capture_logs


def made(path: Path, **options: object) -> Auditor:
    audit = AuditSettings(account=str(path), **options)  # type: ignore[arg-type]
    return Auditor(Settings(audit=audit), lambda key: None)


def test_a_process_that_did_not_run_has_not_listened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)

    async def stall() -> None:
        auditor = made(tmp_path / "account.sqlite")
        auditor._feeds._events.linked()
        measuring = asyncio.create_task(auditor._measure_listening())
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  as if the machine was asleep
        await asyncio.sleep(0.05)
        measuring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await measuring
        auditor._results.close()

    with capture_logs() as logs:
        asyncio.run(stall())
    assert ["this process did not run; checks under way are given up"] == [line["event"] for line in logs]
    with closing(SavedAccount(tmp_path / "account.sqlite")) as account:
        assert account.listened(0) < 0.3


def test_every_reason_is_counted_from_0_for_an_alert_sees_no_increase_in_a_series_that_begins_with_1(
    tmp_path: Path,
) -> None:
    metrics.AUDIT_STALE.clear()
    made(tmp_path / "account.sqlite")._results.close()
    (family,) = metrics.AUDIT_STALE.collect()
    counted = {sample.labels["reason"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert {reason.value: 0.0 for reason in Reason} == counted


@pytest.mark.parametrize("options", [{"delays": [1.0, 0.1]}, {"delays": [1.0, 1.0]}, {"keys": ["a b"]}, {"keys": [""]}])
def test_settings_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"audit\."):
        made(tmp_path / "account.sqlite", **options)
    assert not (tmp_path / "account.sqlite").exists()
