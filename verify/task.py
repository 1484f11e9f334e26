"""From what the user said, and what the model says of itself, to a complete question."""

from __future__ import annotations

import json

from verify.boxes import InputRange, parse_eps
from verify.errors import ModelProblem, Problem
from verify.network import Network
from verify.result import Question
from verify.samples import load_samples


def question_about(
    network: Network,
    model_path: str,
    *,
    data: str | None,
    eps: str | None,
    start: int,
    count: int | None,
    method: str,
    contract: str,
) -> Question:
    """Fill in what was not said from the model's metadata; raises Problem where that says nothing either."""
    data = data or network.metadata.get("adcert.dataset")
    eps = eps or network.metadata.get("adcert.eps")
    if not data:
        raise Problem("the model does not name its data set: say which with --data")
    if not eps:
        raise Problem("the model does not name its eps: say which with --eps")
    samples = load_samples(data, network.input.shape, start=start, count=count)
    return Question(
        model_path=model_path,
        model_sha256=network.sha256,
        contract=contract,
        method=method,
        eps=parse_eps(eps),
        input_range=_input_range(network) or samples.natural_range,
        data=samples,
    )


def _input_range(network: Network) -> InputRange | None:
    text = network.metadata.get("adcert.input_range")
    if text is None:
        return None
    try:
        low, high = (float(end) for end in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ModelProblem(f"the model's metadata hold a malformed input range: {text!r}") from error
    if not low < high:
        raise ModelProblem(f"the model's metadata hold an empty input range: {text!r}")
    return low, high
