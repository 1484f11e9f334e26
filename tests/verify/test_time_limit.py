"""Limits in time: wherever they strike, they end the block, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from verify.time_limit import OutOfTime, time_limit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no interval timers")


class _Slow:
    """Its destructor goes on until an exception ends it, which is lost."""

    def __del__(self) -> None:
        _wait()


def _wait() -> None:
    began = time.monotonic()
    while time.monotonic() < began + 60:
        pass


def _go_on() -> None:
    slow = _Slow()
    del slow
    _wait()


@pytest.mark.parametrize("processor", [False, True])
def test_a_limit_that_strikes_in_a_destructor_strikes_again(processor: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OutOfTime), time_limit(0.01, processor=processor):
        _go_on()
    assert capfd.readouterr().err == ""


def test_a_limit_restores_what_it_found() -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    with time_limit(60):
        assert sys.unraisablehook is not hook
    assert (sys.unraisablehook, signal.getsignal(signal.SIGALRM)) == (hook, handler)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_exceptions_in_destructors_are_reported_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("of a destructor")

    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    with time_limit(60):
        Broken()
    assert [str(each) for each in seen] == ["of a destructor"]
