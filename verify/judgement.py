"""What the command `check` finds: of certificates, and of results that name certificates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from verify.check import check, model_of
from verify.errors import Rejected
from verify.files import read_bytes
from verify.model.network import Network, load
from verify.proofs.certificate import decode

_RESULT = re.compile(rb'\s*\{\s*"schema_version"')
"""How result files begin, and certificates do not."""


@dataclass(frozen=True)
class Judgement:
    """What was established of a file, or of a part of it, its subject. rejected: the reason, None if it is valid;
    statement: what is true then, unless that is a part of something else."""

    subject: str
    rejected: str | None
    statement: str | None = None


@dataclass
class Judge:
    """Checks certificates and results; each model is read once. model: what all are about, or None to find it by its
    name. data: where the samples of results are from, if the results' own name for it does not suffice."""

    model: Path | None
    data: str | None
    _networks: dict[Path, Network] = field(default_factory=dict)

    def __call__(self, path: Path) -> Iterator[Judgement]:
        """On a certificate; or on each proof that a result needs, and last on the result. Raises Problem where
        something that is needed is missing or cannot be read."""
        content = read_bytes(path)
        if _RESULT.match(content):
            from verify.tasks.confirmation import confirmed

            yield from confirmed(path, content, self.model, self.data, self._network)
        else:
            yield self._of_certificate(path, content)

    def _of_certificate(self, path: Path, content: bytes) -> Judgement:
        try:
            certificate = decode(content)
            check(certificate, self._network(self.model or model_of(certificate, path)))
        except Rejected as reason:
            return Judgement(str(path), str(reason))
        return Judgement(str(path), None, certificate.statement)

    def _network(self, file: Path) -> Network:
        if file not in self._networks:
            self._networks[file] = load(file)
        return self._networks[file]
