"""How many instances of VNN-COMP are decided, and is any of them decided wrongly?

    python benchmarks/vnncomp.py FOLDER [BENCHMARK ...] [--method crown] [--timeout 60] [--limit N] [--json FILE]

FOLDER holds a folder per benchmark with `instances.csv` (columns onnx, vnnlib and, if known, verdict) and the files
that it names, in it or in its folders `onnx` and `vnnlib`, compressed by gzip or not. Prints a line per benchmark;
exits with 1 if a verdict is wrong: `unsat` where the known verdict is sat or sat_f32_only (a counterexample is known
that onnxruntime reproduces), or `sat`, which nobody can get without a counterexample, where it is unsat.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verify.attack import witness_search
from verify.decision import decide
from verify.errors import ModelProblem
from verify.network import Network, build
from verify.onnx_file import parse as parse_model
from verify.rounding import CONTRACTS
from verify.runtime import Runtime
from verify.time_limit import OutOfTime, time_limit
from verify.vnnlib import parse as parse_property

WRONG = {("sat", "unsat"), ("sat_f32_only", "unsat"), ("unsat", "sat")}
"""(known, found)"""


def content_of(folder: Path, kind: str, name: str) -> bytes:
    for path in (folder / name, folder / kind / name, folder / kind / f"{name}.gz"):
        if path.is_file():
            content = path.read_bytes()
            return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    raise FileNotFoundError(f"{folder}: there is no {name}")


def outcomes(folder: Path, method: str, contract: str, timeout_s: float, limit: int | None) -> Iterator[dict[str, Any]]:
    """What is found about each instance of a benchmark; models that several instances share are read once."""
    with (folder / "instances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    models: dict[str, Network | ModelProblem] = {}
    contents: dict[str, bytes] = {}
    for row in rows:
        name = row["onnx"]
        if name not in models:
            contents = {name: content_of(folder, "onnx", name)}
            try:
                models = {name: build(parse_model(contents[name], name))}
            except ModelProblem as problem:
                models = {name: problem}
        began = time.perf_counter()
        found: dict[str, Any] = {"decided_by": None}
        try:
            network = models[name]
            if isinstance(network, ModelProblem):
                raise network
            with time_limit(timeout_s):
                property = parse_property(content_of(folder, "vnnlib", row["vnnlib"]))
                runtime = Runtime(contents[name], network)
                decision = decide(
                    network,
                    property,
                    contract=CONTRACTS[contract],
                    method=method,
                    attack=witness_search(network, property, runtime),
                    runtime=runtime,
                )
            found = {"found": decision.answer.value, "decided_by": decision.decided_by}
        except OutOfTime:
            found["found"] = "timeout"
        except ModelProblem as problem:
            found |= {"found": "unsupported", "reason": str(problem)}
        known = row.get("verdict") or "unknown"
        yield {"onnx": name, "vnnlib": row["vnnlib"], "known": known, **found, "time_s": time.perf_counter() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("benchmarks", nargs="*", help="default: all that have an instances.csv")
    parser.add_argument("--method", default="crown")
    parser.add_argument("--contract", default="float32-any-order", choices=list(CONTRACTS))
    parser.add_argument("--timeout", type=float, default=60, help="seconds per instance")
    parser.add_argument("--limit", type=int, help="instances per benchmark")
    parser.add_argument("--json", type=Path, help="write every outcome here")
    arguments = parser.parse_args()
    names = arguments.benchmarks or sorted(path.parent.name for path in arguments.folder.glob("*/instances.csv"))
    every, wrong = [], 0
    for name in names:
        folder = arguments.folder / name
        found = list(outcomes(folder, arguments.method, arguments.contract, arguments.timeout, arguments.limit))
        every += [{"benchmark": name, **outcome} for outcome in found]
        errors = [outcome for outcome in found if (outcome["known"], outcome["found"]) in WRONG]
        wrong += len(errors)
        pairs = Counter((outcome["known"], outcome["found"]) for outcome in found)
        known = Counter(outcome["known"] for outcome in found)
        others = Counter(outcome["found"] for outcome in found if outcome["found"] not in ("sat", "unsat"))
        print(
            f"{name:24} unsat {pairs['unsat', 'unsat']:3} of {known['unsat']:3}   sat {pairs['sat', 'sat']:3} of "
            f"{known['sat']:3}   {', '.join(f'{count} {what}' for what, count in others.items()) or 'all decided'}   "
            f"wrong {len(errors)}   {sum(outcome['time_s'] for outcome in found):.0f} s",
            flush=True,
        )
        for reason, count in Counter(outcome.get("reason") for outcome in found if outcome.get("reason")).items():
            print(f"{'':24} {count} x {reason}")
        for outcome in errors:
            print(f"{'':24} WRONG: {outcome}")
        for (before, now), count in pairs.items():
            if now in ("sat", "unsat") and before not in ("sat", "unsat"):
                print(f"{'':24} {count} x known as {before}, found {now}")
    if arguments.json:
        arguments.json.write_text(json.dumps(every, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
