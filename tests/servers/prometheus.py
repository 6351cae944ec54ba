"""A private Prometheus that scrapes one address with the configuration of conf/prometheus."""

import http.client
import json
import shutil
import urllib.parse
from contextlib import closing
from pathlib import Path
from typing import Any

from .process import Server, ServerError, free_port

CONF = Path(__file__).parents[2] / "conf/prometheus"


def prometheus_is_installed() -> bool:
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


class Prometheus(Server):
    """Prometheus with the shipped configuration and rules, but with these targets and an interval of a second."""

    def __init__(self, *targets: str, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.port = free_port()
        shutil.copy(CONF / "invalidator.rules.yml", self.folder)
        configuration = (CONF / "prometheus.yml").read_text()
        for shipped, ours in (
            ('["127.0.0.1:9871"]', json.dumps(targets)),
            ("interval: 15s", "interval: 1s\n  evaluation_interval: 1s"),
        ):
            assert shipped in configuration
            configuration = configuration.replace(shipped, ours)
        (self.folder / "prometheus.yml").write_text(configuration)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query: ``{"metric": labels, "value": [time, text]}``."""
        result: list[dict[str, Any]] = self._get("query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return result

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def _get(self, path: str) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", f"/api/v1/{path}")
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != 200:
            raise ServerError(f"GET /api/v1/{path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)["data"]

    def _command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def _answers(self) -> bool:
        try:
            self._get("alerts")
        except (OSError, http.client.HTTPException, ServerError):
            return False
        return True
