"""The log of an outage: a line when it begins, when its reason changes, and each minute; never one a try."""

import re
import time
from collections.abc import Callable
from typing import Any

#: Seconds until the same reason is logged again.
AGAIN_SECONDS = 60.0
#: The parts of a reason that may differ from one try to the next: addresses of objects, ports, process ids.
_VARYING = re.compile(r"0x[0-9a-f]+|\d+")


class Outage:
    """A failure that lasts while something is tried again and again; ``log`` is for instance ``log.warning``."""

    def __init__(self, log: Callable[..., None], event: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._event = event
        self._clock = clock
        #: When each reason, with its fields, was logged last.
        self._logged: dict[tuple[Any, ...], float] = {}
        self._tries = 0

    def lasts(self, reason: str, **fields: Any) -> None:
        """Record a try that failed, and log it unless it was logged for the same reason within a minute."""
        now, kind = self._clock(), (_VARYING.sub("#", reason), *fields.items())
        self._tries += 1
        self._logged = {kind: at for kind, at in self._logged.items() if now - at < AGAIN_SECONDS}
        if kind not in self._logged:
            self._logged[kind] = now
            tries = {"tries": self._tries} if self._tries > 1 else {}
            self._log(self._event, reason=reason, **fields, **tries)

    def ends(self) -> None:
        """Record that it works again; the next failure is logged at once."""
        self._logged.clear()
        self._tries = 0
