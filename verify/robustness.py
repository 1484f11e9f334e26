"""Is a classifier's answer the same for every input in a box around each sample?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from verify.bounds import lanes_at_a_time, values
from verify.boxes import InputRange, box_around
from verify.datasets import DataProblem
from verify.environment import require_ieee_arithmetic
from verify.margins import classes, margin_bounds
from verify.network import Network
from verify.rounding import Contract
from verify.samples import Samples


class Status(StrEnum):
    """What is known of a sample."""

    VERIFIED = "verified"
    MISCLASSIFIED = "misclassified"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What was found about one sample.

    index: in its data. prediction: of the network at the sample itself. margin_lower: lower bound of the least margin
    of the label over the box, NaN where none could be given. time_s: the sample's share of its batch's time.
    certificate: its file.
    """

    index: int
    label: int
    prediction: int
    status: Status
    decided_by: str | None
    margin_lower: float
    time_s: float
    certificate: str | None = None


def verify_classifier(
    network: Network, samples: Samples, *, eps: Fraction, input_range: InputRange | None, contract: Contract
) -> Iterator[Verdict]:
    """Verdicts, sample by sample, by interval bound propagation.

    A sample is verified if and only if every margin of its label is proved positive over the whole box of radius eps
    within the input range, under the contract. Raises ModelProblem and DataProblem where model and samples do not fit,
    and BrokenArithmetic where this process cannot compute soundly.
    """
    require_ieee_arithmetic()
    count = classes(network)
    if ((samples.labels < 0) | (samples.labels >= count)).any():
        raise DataProblem(f"a label of {samples.name} is outside the model's {count} classes")
    batch = lanes_at_a_time(network)
    for first in range(0, len(samples), batch):
        began = time.perf_counter()
        part = slice(first, first + batch)
        x, labels = samples.inputs[part], samples.labels[part]
        margins = margin_bounds(network, box_around(x, eps, input_range), labels, contract).min(axis=1)
        logits = values(network, x.astype(np.float64))[0].reshape(len(x), count)
        predictions = logits.argmax(axis=1)
        time_s = (time.perf_counter() - began) / len(x)
        for lane, (label, prediction, margin) in enumerate(zip(labels, predictions, margins, strict=True)):
            undecided = Status.UNKNOWN if prediction == label else Status.MISCLASSIFIED
            status = Status.VERIFIED if margin > 0 else undecided
            yield Verdict(
                index=samples.start + first + lane,
                label=int(label),
                prediction=int(prediction),
                status=status,
                decided_by="ibp" if status is Status.VERIFIED else None,
                margin_lower=float(margin),
                time_s=time_s,
            )
