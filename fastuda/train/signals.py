"""Signals that make a run save its state and end; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

# Ctrl-C, kill, a closed terminal, and the signal of Slurm before a job's time is over (--signal=USR1@60).
HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """The run saved its state and left because of a signal; the exit status is 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Signals:
    """Remembers the first signal inside the block; the loop reads ``received`` between two steps.

    Python handles signals in its main thread only: in another thread the block changes nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, object] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        # A closing terminal sends SIGHUP more than once, so only a second SIGINT or SIGTERM ends the run at once.
        if self.received is not None and number in (signal.SIGINT, signal.SIGTERM):
            raise KeyboardInterrupt
        self.received = self.received or number

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                # nohup makes a process ignore SIGHUP: signals that are ignored stay ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
