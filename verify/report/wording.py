"""Numbers and statements as a report words them."""

from __future__ import annotations

from verify.report.results import Outcome, Result

PROVED = {
    "float32-any-order": (
        "is answered with the sample's label by every execution of this very file in IEEE 754 binary32, rounded to "
        "nearest with gradual underflow: sums in any order, fused multiply-add or not, constants folded or not."
    ),
    "real": (
        "is answered with the sample's label if the file is evaluated over the real numbers, without any rounding. "
        "That says nothing about an execution in float32."
    ),
}
"""By contract, what holds of every input within the perturbation of a certified sample."""

EXCLUDED = {
    "float32-any-order": (
        "executions outside the contract: TF32, half precision, Winograd or FFT convolution, flushing subnormal "
        "numbers to zero, or a runtime with a defect"
    ),
    "real": "any execution by a runtime: the proofs are about exact arithmetic, which none performs",
}
"""By contract, what the proofs leave out."""

SYMBOLS = {
    Outcome.CERTIFIED: "✓",
    Outcome.UNDECIDED: "?",
    Outcome.COUNTEREXAMPLE: "!",
    Outcome.MISCLASSIFIED: "×",
}
"""So that nothing is told by colour alone."""

MEANINGS = {
    Outcome.CERTIFIED: "classified correctly, and proved to stay so",
    Outcome.UNDECIDED: "classified correctly, but neither a proof nor a counterexample was found",
    Outcome.COUNTEREXAMPLE: "classified correctly, but a small perturbation that changes the answer was found",
    Outcome.MISCLASSIFIED: "classified wrongly as it is, without any perturbation",
}


def percent(hits: int, total: int) -> str:
    """Two decimals; all and none are said only of all and none."""
    if not total:
        return "–"
    share = 100 * hits / total
    if 0 < hits < total:
        share = min(max(share, 0.01), 99.99)
    return f"{share:.2f}\N{NO-BREAK SPACE}%"


def count(number: int, noun: str | None = None) -> str:
    """With thin separators, and a noun in the singular or plural if one is given."""
    text = f"{number:,}"
    return text if noun is None else f"{text} {noun}" if number == 1 else f"{text} {noun}s"


def counted(number: int, outcome: Outcome) -> str:
    """So many samples of an outcome."""
    return f"{count(number)} {'with a ' if outcome is Outcome.COUNTEREXAMPLE else ''}{outcome}"


def seconds(time_s: float) -> str:
    """In the unit that suits."""
    if time_s >= 7200:
        number, unit = f"{time_s / 3600:.1f}", "h"
    elif time_s >= 120:
        number, unit = f"{time_s / 60:.1f}", "min"
    elif time_s >= 1:
        number, unit = f"{time_s:.2f}", "s"
    else:
        number, unit = f"{1000 * time_s:.3g}", "ms"
    return f"{number}\N{NO-BREAK SPACE}{unit}"


def decimal(number: float) -> str:
    """Four significant digits, with a true minus sign."""
    return f"{number:.4g}".replace("-", "−")


def radius(result: Result) -> str:
    """Eps, in the units of the model's input."""
    return f"ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{result.eps_text}"


def perturbation(result: Result) -> str:
    """The inputs that are looked at, around each sample."""
    norm = {"linf": "ℓ∞"}.get(result.norm, result.norm)
    inside = "" if result.input_range is None else " inside [{:g}, {:g}]".format(*result.input_range)
    return f"{norm}, {radius(result)}{inside}"


def data_of(result: Result) -> str:
    """The data set and split as people write them, to put before "samples"."""
    name = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}.get(
        result.data_name, result.data_name
    )
    return f"{name} {result.split}" if result.split else name
