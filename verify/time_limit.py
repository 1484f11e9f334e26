"""A limit on the time that a computation takes, wherever it is when the limit is reached."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from verify.errors import Problem

_SHORTEST, _AGAIN = 1e-6, 0.5
"""Seconds until the signal, where zero would mean never; and between further ones: an exception that is raised inside a
destructor or a callback goes no further, and one that comes while another unwinds skips what that would restore."""


class OutOfTime(BaseException):
    """The limit is reached. No Exception, so that no handler between here and the limit takes it for one of its own."""


@contextmanager
def time_limit(seconds: float | None, *, processor: bool = False) -> Iterator[None]:
    """Raise OutOfTime within the block once it has run for so long; None: no limit. In the main thread only, and
    not within another limit.

    processor: count the seconds of processors that the process uses, rather than those that pass.

    Raises Problem in another thread, and on systems without interval timers (Windows).
    """
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer"):
        raise Problem("this system has no timers that a time limit could rely on: leave out the timeout")
    if not can_interrupt():
        raise Problem("only the main thread of a process can keep a time limit: leave out the timeout")

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        """Nobody has to hear of an OutOfTime that goes no further: another one will come."""
        if unraisable.exc_type is not OutOfTime:
            report(unraisable)

    timer, number = (signal.ITIMER_PROF, signal.SIGPROF) if processor else (signal.ITIMER_REAL, signal.SIGALRM)
    before, report = signal.signal(number, stop), sys.unraisablehook
    try:
        sys.unraisablehook = lost
        signal.setitimer(timer, max(seconds, _SHORTEST), _AGAIN)
        yield
    finally:
        try:
            signal.setitimer(timer, 0)
        finally:
            sys.unraisablehook = report
            signal.signal(number, before)


def can_interrupt() -> bool:
    """Whether a time limit is possible here: in the main thread, on a system with interval timers."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
