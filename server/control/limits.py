"""How often a caller may call: a token bucket for each."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

LARGEST_CALLERS = 10_000


@dataclass
class _Bucket:
    tokens: float
    filled: float


@final
class RateLimit:
    """At most so many calls a second from one caller, after a burst.

    Args:
        per_second: Calls a second in the long run.
        burst: Calls at once.
        clock: Monotonic seconds.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def allows(self, caller: str) -> bool:
        """Count a call, and say whether it may go on."""
        now = self._clock()
        with self._lock:
            if caller not in self._buckets and len(self._buckets) >= LARGEST_CALLERS:
                self._buckets.pop(min(self._buckets, key=lambda c: self._buckets[c].filled))
            bucket = self._buckets.setdefault(caller, _Bucket(float(self._burst), now))
            # a clock that was set back must not shut anybody out
            gained = max(0.0, now - bucket.filled) * self._per_second
            bucket.tokens, bucket.filled = min(self._burst, bucket.tokens + gained), now
            if bucket.tokens < 1:
                return False
            bucket.tokens -= 1
            return True
