"""The probes of a runtime: this machine's keeps the contract; runtimes that break it in one way are found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from verify import conformance
from verify.conformance import PROBES, Configuration, Outcome, findings
from verify.model.network import load

STUDENT = Path(__file__).parents[2] / "exported" / "mnist-0.1-small.onnx"
Values = NDArray[Any]
HONEST = conformance._runner(Configuration("CPUExecutionProvider", {}))


def test_the_runtime_of_this_machine_keeps_the_contract() -> None:
    found = list(findings((load(STUDENT), STUDENT)))
    assert len(found) >= len(PROBES) + 1
    assert {finding.outcome for finding in found if finding.configuration.provider.startswith("CPU")} == {Outcome.KEPT}


def shortened(x: Values) -> Values:
    """Ten explicit bits of the mantissa, as TF32 has."""
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) if x.dtype == np.float32 else x


def slightly_off(x: Values) -> Values:
    return x * np.float32(1 + 1e-3) if x.dtype == np.float32 else x


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (shortened, None, {"precision of products", "precision of convolutions"}),
        (None, slightly_off, {"accumulation", "direct convolution", "random networks"}),
    ],
)
def test_a_runtime_that_breaks_the_contract_is_found_out(before: Any, after: Any, expected: set[str]) -> None:
    def run(content: Any, x: Values) -> list[Values]:
        results = HONEST(content, before(x) if before else x)
        return [after(result) for result in results] if after else results

    broken = {probe.name for probe in PROBES if probe.ask(run)[0]}
    assert broken >= expected


def test_a_runtime_that_flushes_subnormal_numbers_is_found_out() -> None:
    def run(content: Any, x: Values) -> list[Values]:
        return [np.zeros_like(x)]  # what 2^-140 times 2^100 becomes

    (probe,) = [probe for probe in PROBES if probe.name == "subnormal numbers"]
    assert probe.ask(run)[0]
    assert not probe.ask(HONEST)[0]
