"""What can go wrong through no fault of the program: each has one sentence for the user and an exit code."""


class Problem(Exception):
    """Something that the user caused and can mend; its text is one sentence."""

    exit_code = 2


class FileProblem(Problem):
    """A file or folder cannot be read or written: it is missing or protected, or the disk is full."""


class ModelProblem(Problem):
    """The model or the property is unsupported or invalid."""

    exit_code = 4


class Rejected(Problem):
    """A certificate that proves nothing, and why."""

    exit_code = 1
