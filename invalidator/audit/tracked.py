"""A key that is being checked, until it changes again."""

import asyncio


class Tracked:
    """A key that is being checked: its last change, and when it came."""

    def __init__(self, *, is_change: bool, at: float) -> None:
        #: False for a named key that is checked without a change.
        self.is_change = is_change
        self.at = at
        #: True until the last change is taken up.
        self.is_waiting = True
        self.is_lost = False
        self._ended = asyncio.Event()

    def changed(self, at: float) -> None:
        """Supersede the change that is being checked."""
        self.is_change, self.at, self.is_waiting = True, at, True
        self._ended.set()

    def lost(self) -> None:
        """End the checks of this change: a further one may have been missed."""
        self.is_lost = True
        self._ended.set()

    def take_up(self) -> None:
        """Begin with the last change."""
        self.is_waiting = False
        if not self.is_lost:
            self._ended.clear()

    async def rests(self, seconds: float) -> bool:
        """Wait; return False as soon as the key changes again, or the feed is lost."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass
        return not self.has_ended

    @property
    def has_ended(self) -> bool:
        """True once the key has changed again, or the feed was lost."""
        return self._ended.is_set()
