"""Samples looked at by several processes at the same time: each takes a few of them, in turn, on its share of the
machine's threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from verify.errors import ModelProblem, Problem
from verify.model.network import load
from verify.tasks.result import Question
from verify.tasks.robustness import Verdict
from verify.tasks.samples import Samples
from verify.tasks.verdicts import Examiner

_TOGETHER = 16
"""Samples that a process takes at a time, whatever their number and that of the processes, so that what is found
depends on neither."""

_THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
"""What numpy's and torch's libraries read when they are loaded."""


def by_processes(question: Question, samples: Samples, certificates: Path | None, jobs: int) -> Iterator[Verdict]:
    """Verdicts in the order of the samples, as an `Examiner` finds them; raises as it does, and Problem where a process
    comes to an end of its own."""
    asked = replace(question, data=samples.first(0))  # the samples go to whom they are for
    parts = [samples.after(first).first(_TOGETHER) for first in range(0, len(samples), _TOGETHER)]
    jobs = min(jobs, len(parts))
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (asked, certificates))
    with _started_with(threads=max(1, _processors() // jobs)):
        found = pool.map(_verdicts, parts)
    workers = set(multiprocessing.active_children()) - others
    try:
        for verdicts in found:
            yield from verdicts
    except BrokenProcessPool as error:
        raise Problem(
            "a process that looked at samples has ended: perhaps for lack of memory, of which fewer take less, or "
            'since a script asks for several without `if __name__ == "__main__":`'
        ) from error
    finally:  # whatever ends this, nobody waits for samples that are still looked at
        for worker in workers:
            worker.terminate()
        pool.shutdown(cancel_futures=True)


_task: list[tuple[Question, Path | None]] = []
"""Of a process that looks at samples: the question, and the folder of certificates."""


def _begin(question: Question, certificates: Path | None) -> None:
    """In a process of its own, as is all that follows: what goes wrong here would end it without a word."""
    _task.append((question, certificates))


def _verdicts(samples: Samples) -> list[Verdict]:
    return list(_examiner()(samples))


@cache
def _examiner() -> Examiner:
    ((question, certificates),) = _task
    network = load(question.model_path, question.data.inputs.shape[2:])
    if network.sha256 != question.model_sha256:
        raise ModelProblem(f"the model {question.model_path} has changed since it was read")
    return Examiner(network, question, certificates, threads=1)


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _started_with(threads: int) -> Iterator[None]:
    """Processes that are started within compute on so many threads, unless the environment says how many, and leave
    Ctrl-C to this one."""
    said = os.environ.get("OMP_NUM_THREADS", str(threads))
    added = {name: said for name in _THREADS if name not in os.environ}
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        if here:
            signal.signal(signal.SIGINT, handler)
