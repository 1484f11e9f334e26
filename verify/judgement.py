"""What the command `check` finds: of certificates, and of results that name certificates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from verify.check import check, model_of
from verify.errors import ModelProblem, Problem, Rejected
from verify.files import read_bytes
from verify.model.network import Model
from verify.proofs.certificate import decode


@dataclass(frozen=True)
class Judgement:
    """What was established of a file, or of a part of it, its subject. rejected: the reason, None if it is valid;
    statement: what is true then, unless that is a part of something else; certified_accuracy: in %, of a result about
    samples."""

    subject: str
    rejected: str | None
    statement: str | None = None
    certified_accuracy: float | None = None


@dataclass
class Judge:
    """Checks certificates and results; each model is read once. model, data, property: what all are about, or None to
    find that by its name, which whoever made the files chose."""

    model: Path | None
    data: str | None
    property: Path | None
    _models: dict[Path, Model] = field(default_factory=dict)

    def __call__(self, path: Path) -> Iterator[Judgement]:
        """On a certificate; or on each proof that a result needs, and last on the result. Raises Problem where
        something that is needed is missing or cannot be read."""
        try:
            content = read_bytes(path)
            if b'"schema_version"' in content and b'"format_version"' not in content:
                yield from self.of_result(path, content)
            else:
                yield self._of_certificate(path, content)
        except MemoryError as error:
            raise ModelProblem(f"there is not enough memory to check {path}") from error

    def _of_certificate(self, path: Path, content: bytes) -> Judgement:
        try:
            certificate = decode(content)
            model = self._model(self.model or model_of(certificate, path))
            check(certificate, model.network(certificate.lower.shape[1:]))
        except Rejected as reason:
            return Judgement(str(path), str(reason))
        return Judgement(str(path), None, certificate.statement)

    def of_result(self, path: Path, content: bytes) -> Iterator[Judgement]:
        """On each proof that a result needs, and last on the result; raises as a call does."""
        from verify.tasks.confirmation import require_proof, result_file

        result = result_file(path, content)
        model = self.model or result.model
        if model is None:
            raise Problem(f"the model of {path} is neither beside it nor here: say where it is with --model")
        count = failed = 0
        try:
            needed = result.confirmation(self._model(model), data=self.data, property=self.property)
            for obligation in needed.obligations:
                count += 1
                try:
                    require_proof(obligation, needed, path.parent)
                    yield Judgement(f"{path}: {obligation.subject}", None)
                except Rejected as reason:
                    failed += 1
                    yield Judgement(f"{path}: {obligation.subject}", str(reason))
            if failed:
                raise Rejected(f"{failed} of the {count} proofs that it needs are not valid")
            yield Judgement(str(path), None, f"{model}: {needed.statement}", needed.certified_accuracy)
        except Rejected as reason:
            yield Judgement(str(path), str(reason))

    def _model(self, file: Path) -> Model:
        if file not in self._models:
            self._models[file] = Model(file)
        return self._models[file]
