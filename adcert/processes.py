"""Training on several processes at once, one for each GPU: `torchrun --nproc-per-node 8 cli.py train RECIPE`.

Every process holds the whole data and the whole model, and works on its rows of each batch. Batch norm takes its
statistics from the whole clean batch, across processes; gradients and the terms of the loss are means over processes.
So a step on several processes is the step on one, and a run may go on with another number of them. What differs is
rounding, the random numbers of augmentation and attacks, and terms that are no means over a batch (Exp-IBP, TAPS, the
warm-up regulariser), which are taken of each process's rows. Process 0 alone writes files.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adcert.problems import RecipeProblem

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Arguments = ParamSpec("Arguments")

_store: Store | None = None  # what the processes of torchrun know in common


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started work together; without torchrun there is only this one.

    All but the first write nothing to stderr there.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    _store, own_rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=_store, rank=own_rank, world_size=size)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere if own_rank else sys.stderr):
        yield
    # Not after a failure: then the others may be waiting for what this process will never send.
    dist.destroy_process_group()
    _store = None


def count() -> int:
    return dist.get_world_size() if _store else 1


def rank() -> int:
    return dist.get_rank() if _store else 0


def local_rank() -> int:
    """Which of this machine's GPUs is this process's own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@functools.cache
def speaks() -> bool:
    """Whether this process is to say how they end: the first one that asks is."""
    if _store is None:
        return True
    try:
        return bool(_store.add("adcert/ended", 1) == 1)
    except RuntimeError:  # whoever kept the store has ended
        return False


def by_first(write: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Only process 0 calls it; the others wait until it is done."""

    @functools.wraps(write)
    def called(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        if rank() == 0:
            write(*arguments, **options)
        if count() > 1:
            dist.barrier()

    return called


def agreed(answer: bool) -> bool:
    """What process 0 answers, for questions that files answer differently from one moment to the next."""
    answers = [answer]
    if count() > 1:
        dist.broadcast_object_list(answers)
    return answers[0]


def rows(batch: Tensor) -> Tensor:
    """Those of this process; raises RecipeProblem unless every process has the same number of them."""
    if len(batch) % count():
        raise RecipeProblem(f"batches of {len(batch)} images cannot be shared evenly by {count()} processes")
    return batch.chunk(count())[rank()]


def mean(values: Tensor) -> Tensor:
    """The mean over the processes of what each has here (same shape); `values` itself may be overwritten."""
    if count() == 1:
        return values
    dist.all_reduce(values)
    return values.div_(count())


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad = mean(weight.grad)
