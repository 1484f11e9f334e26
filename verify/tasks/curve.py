"""Certified accuracy against eps: the same question at several radii."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verify.model.network import Network
from verify.tasks.result import Point, Question, Summary
from verify.tasks.robustness import Status, Verdict
from verify.tasks.task import answer

Watch = Callable[[Iterator[Verdict]], Iterator[Verdict]]


def curve(
    network: Network,
    question: Question,
    verdicts: Sequence[Verdict],
    radii: Sequence[Fraction],
    *,
    jobs: int = 1,
    watch: Callable[[Fraction, int], Watch] = lambda eps, samples: iter,
) -> tuple[Point, ...]:
    """The question asked at other radii too; verdicts: those at its own. Points are by rising eps.

    What is verified within a radius is verified within every smaller one, whose boxes lie inside, and a counterexample
    stays one within every larger one: such samples are not looked at again. watch: as for `answer`, for a radius and
    the number of samples that are looked at there; jobs: likewise. Raises as `answer` does.
    """
    verified = {place: question.eps for place, verdict in enumerate(verdicts) if verdict.status is Status.VERIFIED}
    points = []
    for eps in sorted(set(radii) - {question.eps}, reverse=True):
        found = {
            place: replace(verdict, time_s=0.0)
            for place, verdict in enumerate(verdicts)
            if verdict.status is Status.MISCLASSIFIED
            or (verdict.status is Status.COUNTEREXAMPLE and question.eps <= eps)
        }
        known = {place for place, radius in verified.items() if radius >= eps}
        found |= {place: replace(verdicts[place], status=Status.VERIFIED, time_s=0.0) for place in known}
        left = np.array([place for place in range(len(verdicts)) if place not in found], int)
        if left.size:
            part = replace(question.data, inputs=question.data.inputs[left], labels=question.data.labels[left])
            new: list[Verdict] = []
            asked = replace(question, eps=eps, data=part)
            answer(network, asked, new, jobs=jobs, watch=watch(eps, len(left)))
            found |= dict(zip(left.tolist(), new, strict=True))
        verified |= {place: eps for place in found if found[place].status is Status.VERIFIED and place not in known}
        points.append(Point(eps, Summary.of(list(found.values()), attacked=question.attack is not None)))
    return tuple(reversed(points))
