"""The errors of training and export that a user can cause and mend; each carries one sentence."""

from __future__ import annotations

from verify.errors import Problem


class RecipeProblem(Problem):
    """A recipe, or an override of one, names something that does not exist or has the wrong type."""


class RunProblem(Problem):
    """A run folder cannot be created, read or continued."""


class StudyProblem(Problem):
    """A study names something that does not exist, or its folder holds another one."""


class Diverged(Problem):
    """A loss term or the gradient is no longer finite."""


class ExportProblem(Problem):
    """A run cannot be exported, or its ONNX file does not compute what the trained network computes."""


class NetworkProblem(Problem):
    """A model holds something that cannot be bounded, or does not fit the objective."""


class Interrupted(Problem):
    """A person stopped what can be continued."""

    exit_code = 130
