"""Bounds by adcert and by auto_LiRPA on the same files, boxes and functionals, side by side in one run.

    OMP_NUM_THREADS=1 python benchmarks/peers.py --peer-python PEERS/bin/python [--corpus FOLDER] [--network NAME] \
        [--peer-precision float64] [--csv FILE]
    OMP_NUM_THREADS=1 python benchmarks/peers.py --peer-python PEERS/bin/python --model FILE.onnx --eps 2/255 \
        [--data FILE.npz]

auto_LiRPA is the copy inside the package `neuralsat`, in a process of its own (`peer_worker.py` says how to install
it), in float32 unless told otherwise. The two take turns, and medians are compared. Where auto_LiRPA has two ways to
represent convolutions, the faster one counts. Bounds are of the margins of the predicted class.

ibp         adcert: rigorous, float64, for the deployed network, as verdicts are based on
ibp-onnx    adcert: compiled to ONNX and run by onnxruntime in float32; against the same of auto_LiRPA
crown-ibp   one backward pass over interval bounds of the neurons; adcert: rigorous, float64, for the deployed network
crown       the same over backward bounds of those neurons that intervals leave open; adcert likewise
alpha-crown `crown`, then the slopes of the final pass optimised, 20 passes in all; adcert: in torch, float32
alpha-crown-all   the same of adcert; auto_LiRPA as it comes, which bounds all neurons anew in each of 20 iterations

Times are of the processor, all threads together, so that other work on the machine disturbs them little. `tighter`,
the median and the least over lanes and functionals, is adcert's bound less auto_LiRPA's, per magnitude of the lane's
largest bound; adcert under the contract of real arithmetic, which is auto_LiRPA's. `deployed` is what the default
contract costs, in the same unit.
"""

from __future__ import annotations

import argparse
import csv
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from vnncomp import content_of

from verify.bounds.crown import crown_bounds, margin_functionals
from verify.bounds.evaluation import values
from verify.bounds.margins import functional_bounds
from verify.bounds.neuron_bounds import crown_intervals
from verify.boxes import InputRange, box_around
from verify.compiled.engine import CompiledEngine
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array, Contract
from verify.datasets import load as load_data
from verify.model.network import Network, build
from verify.model.onnx_file import parse
from verify.search.backward import Backward
from verify.search.optimise import Settings, optimised

ITERATIONS, SLOPE_STEP = 20, 0.25
"""Of alpha-CROWN, for both: passes, the last one without a step behind it."""

MOST_ROUNDS, SECONDS = 15, 3.0
"""Of each measurement; at least three rounds."""

PEER_METHODS = {method: method for method in ("ibp", "crown-ibp", "crown", "alpha-crown", "alpha-crown-all")} | {
    "ibp-onnx": "ibp"
}
COLUMNS = {
    "network": 8,
    "method": 15,
    "batch": 5,
    "peer_mode": 9,
    "own_ms": 9,
    "peer_ms": 9,
    "ratio": 6,
    "rounds": 6,
    "tighter_median": 14,
    "tighter_least": 13,
    "deployed_median": 15,
}

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("peer_worker.py")


@dataclass(frozen=True)
class Setup:
    """A network and what to bound of it. content: of the file, given the folder with the corpus. batches: sizes, for
    each method. data: samples, in [0, 1]."""

    content: Callable[[Path | None], bytes]
    eps: Fraction
    input_range: InputRange | None
    batches: dict[str, tuple[int, ...]]
    data: Path | None = None


def _stored(name: str, folder: Path | None) -> bytes:
    return (ROOT / "exported" / name).read_bytes()


def _at(path: Path, folder: Path | None) -> bytes:
    return path.read_bytes()


def _of_corpus(benchmark: str, name: str, folder: Path | None) -> bytes:
    if folder is None:
        sys.exit(f"--corpus does not say where {benchmark} is")
    return content_of(folder / benchmark, "onnx", name)


_ALL = ("ibp", "ibp-onnx", "crown-ibp", "crown", "alpha-crown", "alpha-crown-all")
SETUPS = {
    "student": Setup(
        partial(_stored, "mnist-0.1-small.onnx"), Fraction(1, 10), (0.0, 1.0), dict.fromkeys(_ALL, (1, 16))
    ),
    "mlp": Setup(
        partial(_of_corpus, "mnist_fc", "mnist-net_256x4.onnx.gz"),
        Fraction(3, 100),
        (0.0, 1.0),
        dict.fromkeys(_ALL, (1, 16)),
    ),
    "resnet": Setup(
        partial(_of_corpus, "cifar10_resnet", "resnet_2b.onnx.gz"),
        Fraction(1, 255),
        None,
        {"ibp": (1, 16), "ibp-onnx": (1, 16), "crown-ibp": (1, 16), "crown": (1, 4), "alpha-crown": (1,)},
    ),
    "vit": Setup(
        partial(_of_corpus, "vit_ibp", "ibp_3_3_8.onnx.gz"),
        Fraction(1, 255),
        None,
        {"ibp": (1, 16), "ibp-onnx": (1, 16), "crown-ibp": (1,), "crown": (1,)},
    ),
}


class Peer:
    """The process of auto_LiRPA. A new one is begun when it ends, as it does where it runs out of memory."""

    def __init__(self, python: str, precision: str) -> None:
        self._python, self._precision = python, precision
        self._begin()

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [self._python, str(WORKER), "bounds", self._precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.description = str(self._answer())

    def ask(self, *request: Any) -> Any:
        try:
            assert self._process.stdin
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            return self._answer()
        except (EOFError, BrokenPipeError):
            self._begin()
            return "its process ended"

    def _answer(self) -> Any:
        assert self._process.stdout
        return pickle.load(self._process.stdout)


def alpha_crown(network: Network, box: Interval, functionals: Array, contract: Contract) -> Array:
    """Lower bounds by optimised slopes of the final pass."""
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract)
    backward = Backward(network.output, torch.device("cpu"))
    boxes = backward.lanes(intervals, functionals[:, 0])
    rows = backward.values(functionals).flatten(0, 1)
    owner = torch.arange(len(functionals)).repeat_interleave(functionals.shape[1])
    settings = Settings(ITERATIONS - 1, slope_step=SLOPE_STEP, multiplier_step=0.0, decay=0.98)
    found = []
    for part in torch.split(torch.arange(len(rows)), backward.width):
        lanes = replace(boxes.take(owner[part]), functional=rows[part])
        slopes = lanes.fixed[:, lanes.chosen]
        none, never = torch.zeros_like(slopes), torch.full((len(part),), torch.inf)
        best = optimised(backward, lanes, lanes.chosen, slopes, none, settings, target=never, stop=lambda: False)
        found.append(best.bounds.double())
    return torch.cat(found).reshape(functionals.shape[:2]).numpy()


def with_batch_axes(content: bytes) -> bytes:
    """The model with constants of a number per channel that have a batch axis, as auto_LiRPA's patches need them."""
    model = onnx.load_model_from_string(content)
    for constant in model.graph.initializer:
        if len(constant.dims) == 3 and constant.dims[1:] == [1, 1]:
            constant.dims.insert(0, 1)
    return bytes(model.SerializeToString())


def inputs_for(network: Network, count: int, data: Path | None) -> NDArray[np.float32]:
    """The first samples of the data; without any, images of MNIST's test set where they fit, random numbers in [0, 1]
    elsewhere."""
    shape = network.input.shape
    if data:
        return np.asarray(np.load(data)["x"][:count].reshape(count, *shape), np.float32)
    if np.prod(shape) == 784:
        images = load_data("mnist", "test", download=False).images[:count]
        return np.asarray(images.reshape(count, *shape), np.float32) / np.float32(255)
    return np.random.default_rng(1).random((count, *shape)).astype(np.float32)


def own_bounds(
    method: str, network: Network, setup: Setup, x: NDArray[np.float32], box: Interval, functionals: Array
) -> Callable[[Contract], Array]:
    """Computes adcert's bounds, lanes x functionals."""
    if method == "ibp":
        return partial(functional_bounds, network, box, functionals)
    if method == "ibp-onnx":
        engine = CompiledEngine(network, setup.eps, setup.input_range, threads=torch.get_num_threads())
        return lambda contract: engine(x)[1]
    if method.startswith("alpha-crown"):
        return partial(alpha_crown, network, box, functionals)
    return partial(crown_bounds, network, box, functionals, refine=method == "crown")


def measured(setup: Setup, network: Network, peer: Peer, path: str, method: str, batch: int) -> dict[str, Any]:
    """One row of the table."""
    x = inputs_for(network, batch, setup.data)
    box = box_around(x, setup.eps, setup.input_range)
    labels = values(network, x.astype(np.float64))[0].reshape(batch, -1).argmax(axis=1)
    every, _ = margin_functionals(network, labels)
    others = np.stack([np.delete(rows, label, axis=0) for rows, label in zip(every, labels, strict=True)])
    own = own_bounds(method, network, setup, x, box, others)
    lower, upper = (end.reshape(batch, -1) for end in box)
    request = PEER_METHODS[method], lower, upper, others.reshape(*others.shape[:2], -1), ITERATIONS, SLOPE_STEP
    answers = {}
    for mode in ("patches", "matrix"):  # the first run of each warms up
        if peer.ask(path, mode) is None and not isinstance(peer.ask(*request), str):
            answers[mode] = peer.ask(*request)[0]
    row: dict[str, Any] = {"method": method, "batch": batch}
    if not answers:
        return row | {"peer_mode": "fails"}
    mode = min(answers, key=lambda mode: answers[mode])
    peer.ask(path, mode)
    _, theirs = peer.ask(*request)
    ours = {contract.name: own(contract) for contract in (REAL, FLOAT32_ANY_ORDER)}
    own_s: list[float] = []
    peer_s: list[float] = []
    while len(own_s) < MOST_ROUNDS and (len(own_s) < 3 or sum(own_s) + sum(peer_s) < SECONDS):
        began = time.process_time()
        own(FLOAT32_ANY_ORDER)
        own_s.append(time.process_time() - began)
        peer_s.append(peer.ask(*request)[0])
    row |= {
        "peer_mode": mode,
        "own_ms": f"{1e3 * statistics.median(own_s):.2f}",
        "peer_ms": f"{1e3 * statistics.median(peer_s):.2f}",
        "ratio": f"{statistics.median(peer_s) / statistics.median(own_s):.2f}",
        "rounds": len(own_s),
    }
    if method != "ibp-onnx":
        scale = np.abs(theirs).max(axis=1, keepdims=True)
        tighter = (ours[REAL.name] - theirs) / scale
        deployed = (ours[FLOAT32_ANY_ORDER.name] - ours[REAL.name]) / scale
        row |= {
            "tighter_median": f"{np.median(tighter):.1e}",
            "tighter_least": f"{tighter.min():.1e}",
            "deployed_median": f"{np.median(deployed):.1e}",
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--corpus", type=Path, help="the folder that vnncomp.py reads, for networks from there")
    parser.add_argument("--network", choices=list(SETUPS), action="append")
    parser.add_argument("--model", type=Path, help="a network of your own, instead, at --eps, around --data")
    parser.add_argument("--eps", type=Fraction, default=Fraction(2, 255))
    parser.add_argument("--data", type=Path, help="FILE.npz with x, in [0, 1]")
    parser.add_argument("--method", choices=list(PEER_METHODS), action="append")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    options = parser.parse_args()
    peer = Peer(options.peer_python, options.peer_precision)
    print(f"{peer.description}; adcert: Python {platform.python_version()}, numpy {np.__version__}", end=", ")
    print(f"torch {torch.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    print("  ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    rows = []
    setups = {name: SETUPS[name] for name in options.network or SETUPS}
    if options.model:
        batches = {"ibp": (1, 16), "ibp-onnx": (1, 16), "crown-ibp": (1, 4), "crown": (1,)}
        own = Setup(partial(_at, options.model), options.eps, (0.0, 1.0), batches, options.data)
        setups = {options.model.stem: own}
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        for name, setup in setups.items():
            content = with_batch_axes(setup.content(options.corpus))
            Path(file.name).write_bytes(content)
            parsed = build(parse(content, name))
            for method in options.method or setup.batches:
                for batch in setup.batches.get(method, ()):
                    row = {"network": name, **measured(setup, parsed, peer, file.name, method, batch)}
                    rows.append(row)
                    print("  ".join(f"{row.get(key, ''):>{width}}" for key, width in COLUMNS.items()), flush=True)
    if options.csv:
        fresh = not options.csv.exists()
        with options.csv.open("a", newline="") as table:
            writer = csv.DictWriter(table, list(COLUMNS), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
