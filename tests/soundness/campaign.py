r"""The soundness tests at length: as many random networks, certificates, model files and nodes as there is time for.

    PYTHONPATH=.:tests python tests/soundness/campaign.py --evaluations 1000000 --certificates 10000 --files 10000 \
        --nodes 100000 --networks 500

Stops with an error at the first violation; prints what was done. Every case has its own seed, from `--seed` on.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from support.executions import box_of, sampled_points
from support.mutated_certificates import restated, with_another_byte, with_other_parts
from support.onnx_models import ALL, DISABLED, EXTENDED, network_of, session
from support.quantised_networks import FORMS, random_quantised_network
from support.random_networks import random_network
from verify.bounds.crown import crown_margins
from verify.bounds.evaluation import bounds
from verify.bounds.margins import margin_bounds
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.model.network import Network
from verify.proofs.certificate import Certificate, encode

KINDS = (random_network, *(partial(random_quantised_network, form=form) for form in FORMS))
"""Of random networks: float32, and quantised ones in both forms."""


def _tests(name: str) -> ModuleType:
    """A test file beside this one, as a module."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(count: int, seed: int) -> str:
    """Run `count` inputs inside boxes through onnxruntime, several ways each: none may leave any bound."""
    done = 0
    for networks, number in enumerate(itertools.count(seed)):
        if done >= count:
            return f"{done} evaluations by onnxruntime of {networks} networks inside their boxes: none left its bounds"
        kind = KINDS[number % len(KINDS)]
        content, shape = kind(number)
        network, box = network_of(content), box_of(number, shape)
        ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
        labels = np.arange(lower.shape[-1])
        everywhere = Interval(*(np.repeat(end, len(labels), axis=0) for end in box))
        margins = [way(network, everywhere, labels, FLOAT32_ANY_ORDER) for way in (margin_bounds, crown_margins)]
        others = ~np.eye(len(labels), dtype=bool)
        points = sampled_points(box, np.random.default_rng(number), 1000).reshape(-1, *shape[1:])
        for level in (DISABLED, EXTENDED, ALL):
            logits = session(content, level=level).run(None, {"x": points})[0]
            done += len(points)
            assert ((lower[0] <= logits) & (logits <= upper[0])).all(), f"network {number} leaves its bounds"
            least = (logits.astype(np.float64)[:, :, np.newaxis] - logits[:, np.newaxis]).min(axis=0)
            for found in margins:
                assert (found[others] <= least[others]).all(), f"network {number} violates a margin"
    raise AssertionError


class Forgery(NamedTuple):
    """A kind of certificate to tamper with. changed: with one number of it changed, behind any compression. survives:
    whether the checker accepts a file; an error if what it then says is false."""

    certificate: Certificate
    changed: Callable[[Certificate, np.random.Generator], Certificate]
    survives: Callable[[bytes, np.random.Generator], bool]


def forgeries() -> dict[str, Forgery]:
    """By what the certificate proves, or how."""
    of_classes, of_properties = _tests("test_certificates"), _tests("test_property_proofs")
    of_signs, of_inputs = _tests("test_split_certificates"), _tests("test_input_splits")
    of_assumptions, of_curves = _tests("test_assumptions"), _tests("test_curves")
    classifier, signs, inputs = network_of(of_classes.CONTENT), of_signs.MADE.network(), of_inputs.MADE.network()
    _, assuming, _, _ = of_assumptions.problem()

    def says_truth_about(tests: ModuleType, *network: Network) -> Callable[[bytes, np.random.Generator], bool]:
        def survives(content: bytes, rng: np.random.Generator) -> bool:
            found = tests.accepted(content, *network)
            if found is not None:
                tests.assert_true(found, rng)
            return found is not None

        return survives

    return {
        "a class, by intervals": Forgery(
            of_classes.tight_certificate(classifier), restated, says_truth_about(of_classes, classifier)
        ),
        "a property, by intervals": Forgery(of_properties.proved(), restated, says_truth_about(of_properties)),
        "a class, by splits of neurons": Forgery(
            of_signs.branching_certificate(signs),
            of_signs.mutated,
            lambda content, rng: of_signs.reason(content, signs) is None,
        ),
        "a class, assuming counterexamples": Forgery(
            of_assumptions.assuming_certificate(),
            lambda certificate, rng: (restated if rng.random() < 0.5 else of_assumptions.changed)(certificate, rng),
            lambda content, rng: of_assumptions.accepted(content, assuming, rng),
        ),
        "a class, by splits of smooth functions": Forgery(
            of_curves.splitting_certificate(),
            lambda certificate, rng: (restated if rng.random() < 0.5 else of_curves.moved)(certificate, rng),
            of_curves.accepted,
        ),
        "a property, by splits of inputs": Forgery(
            of_inputs.tight_certificate(inputs),
            with_other_parts,
            lambda content, rng: of_inputs.accepted(content, inputs),
        ),
        "a property, by splits of inputs with slopes": Forgery(
            of_inputs.sloped_certificate(inputs),
            with_other_parts,
            lambda content, rng: of_inputs.accepted(content, inputs),
        ),
    }


def mutate_certificates(count: int, seed: int) -> Iterator[str]:
    """Change one byte or one number at a time: accepted only if what the certificate then says is true."""
    for kind, forgery in forgeries().items():
        rng, content = np.random.default_rng(seed), encode(forgery.certificate)
        survivors = 0
        for number in range(count):
            changed = (
                encode(forgery.changed(forgery.certificate, rng)) if number % 2 else with_another_byte(content, rng)
            )
            survivors += forgery.survives(changed, rng)
        yield f"{count} mutated certificates of {kind}: {survivors} still true, the others rejected"


def ask_the_oracle(count: int, seed: int) -> str:
    """Branch and bound against mixed-integer programs, on random networks."""
    tests = _tests("test_complete")
    for number in range(seed, seed + count):
        tests.test_what_is_decided_is_what_the_exact_oracle_says(number)
    return f"{count} random ReLU networks at 5 radii each: branch and bound agrees with the exact oracle"


def mutate_files(count: int, seed: int) -> str:
    """Mutate model files: each ends in a network or in a sentence."""
    tests = _tests("test_hostile_files")
    refused = 0
    for number in range(seed, seed + count):
        content, _ = KINDS[number % len(KINDS)](number % 50)
        refused += bool(tests.outcome(tests.mutated(content, np.random.default_rng(number))))
    return f"{count} mutated model files: {refused} refused in a sentence, the others read"


def read_odd_nodes(count: int, seed: int) -> str:
    """Nodes of odd attributes, constants and shapes against onnxruntime."""
    tests, rng = _tests("test_odd_nodes"), np.random.default_rng(seed)
    alike = sum(tests.is_read_alike(rng) for _ in range(count))
    return f"{count} odd nodes: {alike} are read and run, all alike, the others refused here or by onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("evaluations", "certificates", "files", "nodes"):
        parser.add_argument(f"--{name}", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=10_000)
    options = parser.parse_args()
    print(evaluate(options.evaluations, options.seed), flush=True)
    for line in mutate_certificates(options.certificates, options.seed):
        print(line, flush=True)
    print(mutate_files(options.files, options.seed), flush=True)
    print(read_odd_nodes(options.nodes, options.seed), flush=True)
    print(ask_the_oracle(options.networks, options.seed), flush=True)


if __name__ == "__main__":
    main()
