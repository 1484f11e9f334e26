"""Which instances of VNN-COMP do other verifiers decide on this machine, and in what time?

    python benchmarks/peers_solved.py FOLDER BENCHMARK ... --peer-python PEERS/bin/python [--each 2] [--timeout 20]

FOLDER as `vnncomp.py` reads it. Of each benchmark, runs instances that are evenly spaced among those with a known
verdict, by adcert's method `complete` and by the packages neuralsat and maraboupy (`peer_worker.py` says how to install
them), each as a process of its own, one after the other. Times are those of whole processes, start included, so that a
limit of 20 s leaves whoever imports torch about 16. Who answers `unsat` is asked about the property's twin, too, which
has a counterexample (`twin.py`): the same answer there makes both worthless. Writes CSV; prints a table.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from twin import satisfiable_twin
from vnncomp import WRONG, content_of

WORKER = Path(__file__).with_name("peer_worker.py")
CLI = Path(__file__).parents[1] / "cli.py"
_GRACE_S = 20.0
"""After the limit, until a process is ended."""


def spread(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """That many rows, at even distances."""
    return [rows[len(rows) * (2 * i + 1) // (2 * count)] for i in range(min(count, len(rows)))]


def run(command: Sequence[str], limit_s: float) -> tuple[str, float, float]:
    """The verdict on the last line that has one, and the wall and processor seconds of the process."""
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s + _GRACE_S, check=False)
        lines = [line.split(",")[0].strip().lower() for line in done.stdout.splitlines()]
        known = [line for line in lines if line in ("sat", "unsat", "unknown", "timeout")]
        verdict = known[-1] if known else f"fails: {(done.stderr.strip().splitlines() or ['no verdict'])[-1][:80]}"
    except subprocess.TimeoutExpired:
        verdict = "timeout"
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return verdict, time.perf_counter() - began, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--each", type=int, default=2, help="instances per benchmark")
    parser.add_argument("--timeout", type=float, default=20, help="seconds per instance")
    parser.add_argument("--csv", type=Path, help="write every outcome here")
    options = parser.parse_args()
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        model, specification = Path(scratch, "model.onnx"), Path(scratch, "property.vnnlib")
        files, limit = [str(model), str(specification)], str(options.timeout)
        adcert = [sys.executable, str(CLI), "verify", files[0], "--vnnlib", files[1], "--method", "complete"]
        tools = {
            "adcert": [*adcert, "--timeout", limit],
            "neuralsat": [options.peer_python, str(WORKER), "neuralsat", *files, limit],
            "marabou": [options.peer_python, str(WORKER), "marabou", *files, limit],
        }
        for benchmark in options.benchmarks:
            with (options.folder / benchmark / "instances.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("verdict") in ("sat", "unsat")]
            for row in spread(rows, options.each):
                model.write_bytes(content_of(options.folder / benchmark, "onnx", row["onnx"]))
                specification.write_bytes(content_of(options.folder / benchmark, "vnnlib", row["vnnlib"]))
                outcome = {
                    "benchmark": benchmark,
                    "onnx": row["onnx"],
                    "vnnlib": row["vnnlib"],
                    "known": row["verdict"],
                }
                for tool, command in tools.items():
                    verdict, wall_s, processor_s = run(command, options.timeout)
                    outcome |= {
                        tool: "WRONG " * ((row["verdict"], verdict) in WRONG) + verdict,
                        f"{tool}_twin": "",
                        f"{tool}_wall_s": f"{wall_s:.1f}",
                        f"{tool}_processor_s": f"{processor_s:.1f}",
                    }
                if row["verdict"] == "unsat":
                    specification.write_bytes(satisfiable_twin(model.read_bytes(), specification.read_bytes()))
                    for tool in tools:
                        if outcome[tool] == "unsat":
                            verdict, _, _ = run(tools[tool], options.timeout)
                            outcome[f"{tool}_twin"] = "WRONG " * (verdict == "unsat") + verdict
                found.append(outcome)
                times = (
                    f"{tool} {outcome[tool][:30]} {outcome[f'{tool}_twin']} {outcome[f'{tool}_wall_s']} s"
                    for tool in tools
                )
                print(f"{benchmark:20} {row['vnnlib'][:40]:40} {row['verdict']:5}", *times, sep="   ", flush=True)
    print(f"{os.cpu_count()} processors, Python {platform.python_version()}, limit {options.timeout} s")
    for tool in tools:
        decided = [outcome for outcome in found if outcome[tool] == outcome["known"]]
        seconds = sum(float(outcome[f"{tool}_wall_s"]) for outcome in decided)
        wrong = sum(outcome[f"{tool}_twin"].startswith("WRONG") for outcome in decided)
        print(f"{tool:10} decides {len(decided)} of {len(found)}, in {seconds:.1f} s together; {wrong} twins wrong")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
