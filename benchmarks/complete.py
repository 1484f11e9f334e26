"""What each method adds: how many samples it settles, in what time, and what checking its proofs costs.

    OMP_NUM_THREADS=1 python benchmarks/complete.py exported/mnist-0.1-small.onnx --count 1000 --timeout 20

Runs the method `complete`, which tries the cheaper ones first, and checks every proof that was searched for anew.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

from verify.bounds.methods import METHODS
from verify.boxes import box_around
from verify.check import check
from verify.core.rounding import contract_named
from verify.proofs.certificate import Certificate, Class, decode, encode
from verify.proofs.split_trees import SplitProof
from verify.tasks.robustness import Status, Verdict, verify_classifier
from verify.tasks.task import question_about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--eps")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--timeout", type=float, default=20.0)
    options = parser.parse_args()
    network, question = question_about(
        options.model,
        data=options.data,
        eps=options.eps,
        start=options.start,
        count=options.count,
        method="complete",
        contract="float32-any-order",
        timeout_s=options.timeout,
    )
    began = time.perf_counter()
    settled: dict[str, list[Verdict]] = defaultdict(list)
    check_s, size, leaves = 0.0, 0, 0
    for verdict in verify_classifier(
        network,
        question.data,
        eps=question.eps,
        input_range=question.input_range,
        contract=contract_named(question.contract),
        method=question.method,
        timeout_s=options.timeout,
    ):
        settled[verdict.decided_by or verdict.status].append(verdict)
        if isinstance(verdict.proof, SplitProof) and verdict.status is Status.VERIFIED:
            x = question.data.inputs[verdict.index - question.data.start]
            box = box_around(x[None], question.eps, question.input_range)
            lower, upper = (end[0].astype("float32") for end in box)
            content = encode(
                Certificate(network.sha256, "", question.contract, Class(verdict.label), lower, upper, verdict.proof)
            )
            size, leaves = size + len(content), leaves + verdict.proof.leaves
            checking = time.perf_counter()
            check(decode(content), network)
            check_s += time.perf_counter() - checking
    elapsed = time.perf_counter() - began
    total = 0
    for name in (*METHODS["complete"][:-1], "alpha-crown", "complete", *Status):
        if found := settled.get(name):
            total += len(found) * (name not in list(Status))
            share = 100 * total / len(question.data)
            print(f"{name:14} {len(found):6} samples  certified so far {share:6.2f} %", end="")
            print(f"  {sum(verdict.time_s for verdict in found):8.2f} s")
    searched = sum(verdict.time_s for name in ("alpha-crown", "complete") for verdict in settled.get(name, []))
    print(f"{elapsed:.1f} s in all; proofs that were searched for: {size} bytes, {leaves} leaves,", end=" ")
    print(f"found in {searched:.2f} s, checked in {check_s:.2f} s")


if __name__ == "__main__":
    main()
