"""The pauses between dials."""

from __future__ import annotations

import asyncio
import random

from .options import Options


class Backoff:
    """Exponential pauses with jitter after dials that failed."""

    def __init__(self, options: Options) -> None:
        self._min, self._max = options.backoff_min, max(options.backoff_max, options.backoff_min)
        self._attempts = 0
        self._end = float("-inf")

    def failed(self) -> None:
        """A dial failed: the next one waits."""
        pause = min(self._min * 2 ** min(self._attempts, 16), self._max)
        self._attempts += 1
        self._end = asyncio.get_running_loop().time() + max(pause / 2 + random.random() * pause / 2, self._min)

    def worked(self) -> None:
        """A stream lived: the next failure begins anew."""
        self._attempts = 0

    async def wait(self) -> None:
        """Waits until one may dial."""
        loop = asyncio.get_running_loop()
        while (left := self._end - loop.time()) > 0:
            await asyncio.sleep(left)
