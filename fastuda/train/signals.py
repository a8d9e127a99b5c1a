"""SIGINT and SIGTERM ask a run to save and leave; a second one leaves at once."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(SystemExit):
    """The run saved its state and left because of a signal; the exit status is 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Signals:
    """Remembers the first signal inside the block; the loop looks at ``received`` between two steps."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def __enter__(self) -> Signals:
        self.previous = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
