"""How many instances of VNN-COMP are decided, how fast, and is any of them decided wrongly?

    python benchmarks/vnncomp.py FOLDER [BENCHMARK ...] --out FILE.jsonl [--method complete] [--timeout 60]
    python benchmarks/vnncomp.py FOLDER --table FILE.csv FILE.jsonl ...

FOLDER holds a folder per benchmark with `instances.csv` (columns onnx, vnnlib and, if known, verdict, tools_unsat,
tools_sat) and the files that it names, in it or in its folders `onnx` and `vnnlib`, compressed by gzip or not. Every
outcome is appended to FILE.jsonl, and what stands there is not run again: an interrupted run goes on, and several
processes share the work by benchmarks. The second form makes a table of outcomes, a line per benchmark.

Both exit with 1 if a verdict is wrong: `unsat` where the known verdict is sat or sat_f32_only (a counterexample is
known that onnxruntime reproduces), or `sat`, which nobody can get without a counterexample, where it is unsat.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from verify.core.rounding import CONTRACTS
from verify.errors import ModelProblem
from verify.model.network import Network, build
from verify.model.onnx_file import parse as parse_model
from verify.tasks.attack import witness_search
from verify.tasks.decision import decide
from verify.tasks.runtime import Runtime
from verify.tasks.vnnlib import parse as parse_property
from verify.time_limit import OutOfTime, time_limit

ANSWERS = ("unsat", "sat")

WRONG = {("sat", "unsat"), ("sat_f32_only", "unsat"), ("unsat", "sat")}
"""(known, found)"""

Outcome = dict[str, Any]


def content_of(folder: Path, kind: str, name: str) -> bytes:
    for path in (folder / name, folder / kind / name, folder / kind / f"{name}.gz"):
        if path.is_file():
            content = path.read_bytes()
            return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    raise FileNotFoundError(f"{folder}: there is no {name}")


def instances(folder: Path) -> list[dict[str, str]]:
    with (folder / "instances.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcomes(
    folder: Path, rows: Sequence[dict[str, str]], method: str, contract: str, timeout_s: float, processor: bool
) -> Iterator[Outcome]:
    """What is found about each instance of a benchmark; a model that instances in a row share is read once."""
    name, content, model = "", b"", None
    for row in rows:
        if row["onnx"] != name:
            name = row["onnx"]
            content = content_of(folder, "onnx", name)
            model = _model(content, name)
        began = time.perf_counter()
        found: Outcome = {"found": "timeout", "decided_by": None}
        try:
            if isinstance(model, ModelProblem):
                raise model
            assert model
            with time_limit(timeout_s, processor=processor):
                property = parse_property(content_of(folder, "vnnlib", row["vnnlib"]))
                runtime = Runtime(content, model)
                decision = decide(
                    model,
                    property,
                    contract=CONTRACTS[contract],
                    method=method,
                    attack=witness_search(model, property, runtime),
                    runtime=runtime,
                    seconds=timeout_s - (time.perf_counter() - began),
                )
                found = {"found": decision.answer.value, "decided_by": decision.decided_by}
        except OutOfTime:
            pass
        except ModelProblem as problem:
            found |= {"found": "unsupported", "reason": str(problem)}
        yield {"benchmark": folder.name, "onnx": name, "vnnlib": row["vnnlib"], **found} | {
            "time_s": round(time.perf_counter() - began, 3),
            "timeout_s": timeout_s,
            "method": method,
            "contract": contract,
            "clock": "processor" if processor else "wall",
        }


def _model(content: bytes, name: str) -> Network | ModelProblem:
    try:
        return build(parse_model(content, name))
    except ModelProblem as problem:
        return problem


def read(path: Path) -> list[Outcome]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(folder: Path, found: Sequence[Outcome]) -> dict[str, Any]:
    """The line of a benchmark in the table. solved: share of the instances with a known answer. best_published: the
    tool that solved most of these, at the competition's own limits and machines."""
    rows = {(row["onnx"], row["vnnlib"]): row for row in instances(folder)}
    known = {key: row.get("verdict") or "unknown" for key, row in rows.items()}
    pairs = Counter((known[outcome["onnx"], outcome["vnnlib"]], outcome["found"]) for outcome in found)
    done = [rows[outcome["onnx"], outcome["vnnlib"]] for outcome in found]
    asked = Counter(row.get("verdict") for row in done)
    solved = pairs["unsat", "unsat"] + pairs["sat", "sat"]
    answered = asked["unsat"] + asked["sat"]
    tools = Counter(
        tool
        for row in done
        if row.get("verdict") in ANSWERS
        for tool in (row.get(f"tools_{row['verdict']}") or "").split()
    )
    best, count = tools.most_common(1)[0] if tools else ("", 0)
    times = [outcome["time_s"] for outcome in found if outcome["found"] in ANSWERS]
    return {
        "benchmark": folder.name,
        "instances": len(rows),
        "run": len(found),
        "unsat_known": asked["unsat"],
        "unsat_proved": pairs["unsat", "unsat"],
        "sat_known": asked["sat"],
        "sat_found": pairs["sat", "sat"],
        "others_decided": sum(n for (was, now), n in pairs.items() if now in ANSWERS and was not in ANSWERS),
        "wrong": sum(pairs[pair] for pair in WRONG),
        "unsupported": sum(n for (_, now), n in pairs.items() if now == "unsupported"),
        "solved_percent": f"{100 * solved / answered:.1f}" if answered else "",
        "median_time_s": f"{statistics.median(times):.2f}" if times else "",
        "best_published": best,
        "best_published_solved": count,
    }


def write_table(folder: Path, files: Sequence[Path], path: Path) -> int:
    """Returns how many verdicts are wrong."""
    every: dict[str, list[Outcome]] = {}
    for file in files:
        for outcome in read(file):
            every.setdefault(outcome["benchmark"], []).append(outcome)
    lines = [summary(folder / name, found) for name, found in sorted(every.items())]
    with path.open("w", newline="") as table:
        writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return sum(line["wrong"] for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="benchmarks, default: all; with --table: files of outcomes")
    parser.add_argument("--out", type=Path, help="append every outcome here, and leave out what is there")
    parser.add_argument("--table", type=Path, help="write a table of outcomes here")
    parser.add_argument("--method", default="complete")
    parser.add_argument("--contract", default="float32-any-order", choices=list(CONTRACTS))
    parser.add_argument("--timeout", type=float, default=60, help="seconds per instance")
    parser.add_argument("--processor-time", action="store_true", help="count that, on a machine that does other work")
    parser.add_argument("--limit", type=int, help="instances per benchmark")
    parser.add_argument("--known", action="store_true", help="only instances whose answer is known")
    arguments = parser.parse_intermixed_args()
    if arguments.table:
        return 1 if write_table(arguments.folder, [Path(name) for name in arguments.names], arguments.table) else 0
    if not arguments.out:
        parser.error("one of --out and --table is needed")
    if arguments.processor_time:
        time.perf_counter = time.process_time  # what everything here takes the time from
    names = arguments.names or sorted(path.parent.name for path in arguments.folder.glob("*/instances.csv"))
    wrong = 0
    for name in names:
        folder = arguments.folder / name
        before = [outcome for outcome in read(arguments.out) if outcome["benchmark"] == name]
        done = {(outcome["onnx"], outcome["vnnlib"]) for outcome in before}
        rows = [row for row in instances(folder)[: arguments.limit] if (row["onnx"], row["vnnlib"]) not in done]
        if arguments.known:
            rows = [row for row in rows if row.get("verdict") in ANSWERS]
        found = []
        for outcome in outcomes(
            folder, rows, arguments.method, arguments.contract, arguments.timeout, arguments.processor_time
        ):
            with arguments.out.open("a") as file:
                file.write(json.dumps(outcome) + "\n")
            found.append(outcome)
        line = summary(folder, before + found)
        wrong += line["wrong"]
        print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)
        for reason, number in Counter(outcome["reason"] for outcome in found if "reason" in outcome).items():
            print(f"    {number} x {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
