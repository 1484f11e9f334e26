"""The command line: `python cli.py COMMAND` from a checkout, `adcert COMMAND` once installed.

Each command imports what it needs when it runs, so that `--help` stays fast and verification loads torch only to search
for proofs.
Human output goes to stderr, machine output to stdout. Exit codes are the project's interface:
0 done, 1 refuted or below a threshold, 2 usage, 3 undecided, 4 model or property unsupported, 70 internal error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from verify.version import __version__

if TYPE_CHECKING:
    from verify.tasks.result import Question
    from verify.tasks.robustness import Verdict

INTERRUPTED = 130


class _Number(click.FloatRange):
    """A number in a range, which NaN is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number", param, ctx)
        return float(number)


PATH, POSITIVE = click.Path(path_type=Path), click.IntRange(min=1)
FINITE_SECONDS, PERCENT = _Number(min=0, min_open=True, max=1e7), _Number(0, 100)


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta["quiet"] = value


def _lengths(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Of axes, as in 3,224,224."""
    if value is None:
        return None
    lengths = [length.strip() for length in value.split(",")]
    if not all(length.isdecimal() and len(length) < 10 and int(length) for length in lengths):
        raise click.BadParameter(f"{value!r} is no shape such as 3,224,224")
    return tuple(map(int, lengths))


quiet_option = click.option(
    "--quiet", "-q", is_flag=True, expose_value=False, callback=_set_quiet, help="Say nothing on stderr but errors."
)

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto: on a GPU if there is one.",
)
start_option = click.option("--start", metavar="I", default=0, show_default=True, help="Index of the first sample.")
count_option = click.option(
    "--count", metavar="N", type=POSITIVE, help="Number of samples. Default: all from the first one on."
)
jobs_option = click.option(
    "--jobs",
    metavar="N",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Processes that look at samples at the same time.",
)
shape_option = click.option(
    "--shape",
    metavar="N,N,...",
    callback=_lengths,
    help="Of one input, without batch, where MODEL leaves axes of it open.",
)
range_option = click.option(
    "--input-range", metavar="LOW,HIGH", help="The valid inputs. Default: the model's own; of images as bytes 0,1."
)


def quiet() -> bool:
    """Whether the command that runs was told --quiet."""
    return bool(click.get_current_context().meta.get("quiet"))


def say(sentence: str) -> None:
    """Tell people, on stderr, unless they want quiet."""
    if not quiet():
        click.echo(sentence, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="adcert", message="%(prog)s %(version)s")
def commands() -> None:
    """Train certifiably robust classifiers, export them to ONNX, and prove what the deployed file answers."""


@commands.command("verify", short_help="Prove what an ONNX file answers around samples, or of a property.")
@click.argument("model", type=PATH)
@click.option(
    "--data", metavar="NAME", help="mnist, fashion-mnist, cifar10, or FILE.npz with x and y. Default: the model's own."
)
@click.option(
    "--eps",
    metavar="NUMBER",
    help="l_inf radius in the units of the model's input: 0.1 or 2/255. Default: the model's own.",
)
@range_option
@start_option
@count_option
@click.option(
    "--method",
    type=click.Choice(["ibp", "crown", "alpha-crown", "complete"]),
    default="ibp",
    show_default=True,
    help="How to prove: each tries those before it first.",
)
@click.option(
    "--timeout",
    type=FINITE_SECONDS,
    metavar="SECONDS",
    help="Limit for each proof (default: 20 by alpha-crown or complete, else none); with --vnnlib, of all.",
)
@click.option(
    "--engine",
    type=click.Choice(["numpy", "onnx"]),
    default="numpy",
    show_default=True,
    help="What looks at intervals first: onnx is faster, and trusts onnxruntime unless --certificates confirm it.",
)
@click.option(
    "--contract",
    type=click.Choice(["float32-any-order", "real"]),
    default="float32-any-order",
    show_default=True,
    help="What is assumed of the arithmetic that executes the model.",
)
@click.option("--certificates", metavar="FOLDER", type=PATH, help="Write a certificate per verified sample here.")
@click.option("--json", "json_path", metavar="FILE", type=PATH, help="Write the result file here; - for stdout.")
@click.option("--card", metavar="FILE", type=PATH, help="Write a model card (Markdown) here.")
@click.option("--report", metavar="FILE", type=PATH, help="Write a report (HTML) here.")
@click.option("--resume", is_flag=True, help="Continue the run whose result --json names, if there is one.")
@click.option("--fail-under", metavar="PERCENT", type=PERCENT, help="Exit with 1 below this certified accuracy, in %.")
@click.option("--attack", is_flag=True, help="Search for counterexamples to what is not proved; complete always does.")
@click.option("--curve", metavar="EPS,EPS,...", help="Also certify at these radii: accuracy against eps in the report.")
@click.option("--vnnlib", metavar="FILE", type=PATH, help="Decide this VNN-LIB property instead of samples.")
@jobs_option
@quiet_option
@click.pass_context
def verify_command(
    context: click.Context,
    model: Path,
    data: str | None,
    eps: str | None,
    input_range: str | None,
    start: int,
    count: int | None,
    method: str,
    timeout: float | None,
    engine: str,
    contract: str,
    certificates: Path | None,
    json_path: Path | None,
    card: Path | None,
    report: Path | None,
    resume: bool,
    fail_under: float | None,
    attack: bool,
    curve: str | None,
    vnnlib: Path | None,
    jobs: int,
) -> int:
    """Prove, sample by sample, that no perturbation within eps changes the class that MODEL (an ONNX file) answers.

    With --vnnlib, decide that property: the first line on stdout is unsat (it holds), sat (and a counterexample
    follows), unknown or timeout.
    """
    if vnnlib:
        of_samples = "data eps input_range start count card resume fail_under attack engine report curve jobs"
        _require_unused(context, *of_samples.split(), reason="with --vnnlib")
        return _verify_property(model, vnnlib, method, contract, timeout, certificates, json_path)
    from verify import terminal
    from verify.boxes import eps_text, parse_eps, parse_range
    from verify.errors import Problem
    from verify.files import require_writable
    from verify.tasks import curve as curves
    from verify.tasks.card import write_card
    from verify.tasks.effort import Effort
    from verify.tasks.result import Summary, read_verdicts, result_json, write_result
    from verify.tasks.task import answer, question_about, require_radius

    terminal.CONSOLE.quiet = quiet()
    radii = [parse_eps(eps) for eps in curve.split(",")] if curve else []

    network, question = question_about(
        str(model),
        data=data,
        eps=eps,
        start=start,
        count=count,
        method=method,
        contract=contract,
        attack=Effort() if attack or method == "complete" else None,
        engine=engine,
        timeout_s=timeout,
        valid=None if input_range is None else parse_range(input_range),
    )
    for each in radii:
        require_radius(question, each)
    result_path = _kept(json_path)
    require_writable(_file(json_path), card, report)
    if resume and not result_path:
        raise Problem("--resume needs --json FILE, the result file of the run")
    verdicts = read_verdicts(result_path, question) if resume and result_path and result_path.exists() else []
    with _interruptible(question, verdicts, result_path, "; go on with the same command and --resume"):
        watch = terminal.progress(verdicts, len(question.data))
        answer(network, question, verdicts, result_path=result_path, certificates=certificates, jobs=jobs, watch=watch)
        points = curves.curve(
            network,
            question,
            verdicts,
            radii,
            jobs=jobs,
            watch=lambda eps, samples: terminal.progress([], samples, f"eps {eps_text(eps)}"),
        )
    summary = Summary.of(verdicts, attacked=question.attack is not None)
    terminal.show_summary(question, summary)
    if points:
        terminal.show_curve(points)
        if result_path:
            write_result(result_path, question, verdicts, points)
    if json_path and not result_path:
        _put(json_path, result_json(question, verdicts, points))
    if card:
        write_card(card, question, summary, network.metadata)
    if report:
        from verify.report import read_result, write_report

        result = read_result(f"{report.stem}.json", result_json(question, verdicts, points))
        write_report(report, [result], data=data or network.metadata.get("adcert.dataset"))
    if fail_under is not None:
        _require_certified(summary.certified_accuracy, fail_under)
    return 0


@contextmanager
def _interruptible(
    question: Question, verdicts: Sequence[Verdict], result_path: Path | None, go_on: str = ""
) -> Iterator[None]:
    """Where Ctrl-C ends the command with what was found until then. go_on: how, if the result file is kept."""
    from verify import terminal
    from verify.tasks.result import Summary

    try:
        yield
    except KeyboardInterrupt:
        if not verdicts:
            fail("interrupted before the first verdict", INTERRUPTED)
        terminal.show_summary(question, Summary.of(verdicts, attacked=question.attack is not None))
        kept = (
            f"{result_path} holds what was found{go_on}" if result_path else "nothing was kept, which --json would do"
        )
        fail(f"interrupted after {len(verdicts)} of {len(question.data)} samples: {kept}", INTERRUPTED)


def _require_unused(context: click.Context, *options: str, reason: str) -> None:
    for name in options:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} means nothing {reason}")


def _verify_property(
    model: Path,
    path: Path,
    method: str,
    contract: str,
    timeout: float | None,
    certificates: Path | None,
    json_path: Path | None,
) -> int:
    from verify.bounds.methods import next_method
    from verify.files import require_writable, write_atomically
    from verify.tasks.decision import Answer
    from verify.tasks.property_task import answer_property, result_json, verdict_text

    require_writable(_file(json_path))
    result = answer_property(
        model,
        path,
        method=method,
        contract=contract,
        timeout_s=timeout,
        certificates=certificates,
        warn=lambda sentence: click.echo(sentence, err=True),
    )
    if str(json_path) == "-":
        sys.stdout.buffer.write(result_json(result))
    else:
        click.echo(verdict_text(result), nl=False)
        if json_path:
            write_atomically(json_path, result_json(result))
    if result.decision.answer is Answer.UNKNOWN and (more := next_method(method)):
        say(f"{method} does not decide it; --method {more} tries harder")
    return {"unsat": 0, "sat": 1}.get(result.decision.answer, 3)


@commands.command("attack", short_help="Search for counterexamples only.")
@click.argument("model", type=PATH)
@click.option("--data", metavar="NAME", help="As for verify.")
@click.option("--eps", metavar="NUMBER", help="As for verify.")
@range_option
@start_option
@count_option
@click.option("--steps", metavar="N", type=POSITIVE, default=40, show_default=True, help="Gradient steps per restart.")
@click.option("--restarts", metavar="N", type=POSITIVE, default=8, show_default=True, help="Restarts per sample.")
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random restarts."
)
@click.option("--json", "json_path", metavar="FILE", type=PATH, help="Write the result file here; - for stdout.")
@click.option("--out", metavar="FILE", type=PATH, help="Write the counterexamples (index, x, y) to this .npz.")
@jobs_option
@quiet_option
def attack_command(
    model: Path,
    data: str | None,
    eps: str | None,
    input_range: str | None,
    start: int,
    count: int | None,
    steps: int,
    restarts: int,
    seed: int,
    json_path: Path | None,
    out: Path | None,
    jobs: int,
) -> None:
    """Search for perturbations within eps that change the class that MODEL answers, as onnxruntime executes it."""
    from verify import terminal
    from verify.boxes import parse_range
    from verify.files import require_writable, write_atomically
    from verify.tasks.effort import Effort
    from verify.tasks.result import Summary, counterexamples, result_json
    from verify.tasks.task import answer, question_about

    terminal.CONSOLE.quiet = quiet()
    network, question = question_about(
        str(model),
        data=data,
        eps=eps,
        start=start,
        count=count,
        method=None,
        contract="float32-any-order",
        attack=Effort(steps, restarts, seed),
        valid=None if input_range is None else parse_range(input_range),
    )
    result_path = _kept(json_path)
    require_writable(_file(json_path), out)
    verdicts: list[Verdict] = []
    with _interruptible(question, verdicts, result_path):
        watch = terminal.progress(verdicts, len(question.data), proves=False)
        answer(network, question, verdicts, result_path=result_path, jobs=jobs, watch=watch)
    terminal.show_summary(question, Summary.of(verdicts, attacked=True))
    if json_path and not result_path:
        _put(json_path, result_json(question, verdicts))
    if out:
        write_atomically(out, counterexamples(verdicts, network.input))
        found = sum(verdict.counterexample is not None for verdict in verdicts)
        say(f"{out}: {found} counterexample{'' if found == 1 else 's'}")


@commands.command("check", short_help="Establish anew what certificates and results say.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="CERTIFICATE|RESULT...")
@click.option("--model", metavar="FILE", type=PATH, help="The model. Default: found by its name.")
@click.option("--data", metavar="NAME", help="A result's samples, as for verify. Default: found by their name.")
@click.option("--vnnlib", metavar="FILE", type=PATH, help="A result's property. Default: found by its name.")
@click.option(
    "--fail-under", metavar="PERCENT", type=PERCENT, help="Exit with 1 where a RESULT certifies less than this, in %."
)
@quiet_option
def check_command(
    files: tuple[Path, ...], model: Path | None, data: str | None, vnnlib: Path | None, fail_under: float | None
) -> int:
    """Establish anew what each CERTIFICATE says, from it and the model alone: `valid`, or why not.

    A RESULT (of `verify --json --certificates`) is valid if each certificate that it needs is, and is about the very
    sample of the data, or case of the property, that it should be about.
    """
    from verify.errors import Problem
    from verify.judgement import Judge

    judge = Judge(model, data, vnnlib)
    verdicts: Counter[str] = Counter(valid=0, rejected=0)
    statements: Counter[str] = Counter()
    problems: list[Problem] = []
    certified: list[float] = []
    for path in files:
        try:
            for judgement in judge(path):
                verdict = "rejected" if judgement.rejected else "valid"
                reason = f": {judgement.rejected}" if judgement.rejected else ""
                click.echo(_printable(f"{judgement.subject}: {verdict}{reason}"))
                verdicts[verdict] += 1
                if judgement.statement:
                    statements[judgement.statement] += 1
                if judgement.certified_accuracy is not None:
                    certified.append(judgement.certified_accuracy)
        except Problem as problem:  # what the other files say is worth knowing nevertheless
            click.echo(f"Error: {problem}", err=True)
            problems.append(problem)
    if verdicts.total():
        say(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    for statement, count in statements.items():
        say(_printable(f"{count} of them: {statement}"))
    if verdicts["rejected"]:
        return 1
    if problems:
        return problems[0].exit_code
    if fail_under is not None:
        _require_certified(min(certified, default=None), fail_under)
    return 0


def _file(path: Path | None) -> Path | None:
    """None for stdout."""
    return path if str(path) != "-" else None


def _kept(path: Path | None) -> Path | None:
    """A result file that is kept up to date; stdout, devices and pipes get the result once, at the end."""
    from verify.files import is_device

    file = _file(path)
    return file if file and not is_device(file) else None


def _put(path: Path, content: bytes) -> None:
    from verify.files import write_atomically

    if _file(path):
        write_atomically(path, content)
    else:
        sys.stdout.buffer.write(content)


def _require_certified(percent: float | None, least: float) -> None:
    """Leave with 1 below the least certified accuracy that was asked for."""
    if percent is None:
        raise click.UsageError("--fail-under is about results, and none of these is one about samples")
    if percent < least:
        fail(f"{percent:g} % certified is less than --fail-under {least:g}", 1)


def _printable(text: str) -> str:
    """With escapes for line ends and the like, which file names may hold."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@commands.command("report", short_help="Make one HTML page of result files.")
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULT...")
@click.option("--out", metavar="FILE", type=PATH, required=True, help="The HTML file.")
@click.option(
    "--data", metavar="NAME", help="Where pictures are from, if the result's own name for it does not suffice."
)
@quiet_option
def report_command(results: tuple[Path, ...], out: Path, data: str | None) -> None:
    """Make one self-contained HTML page of each RESULT (what `verify --json` wrote), side by side if there are several.

    Pictures are shown if the data of the result are on this machine; an .npz file is looked for beside the result.
    """
    from verify.report import read_file, write_report

    write_report(out, [read_file(path) for path in results], data=data, folders=[path.parent for path in results])
    say(str(out))


@commands.command("inspect", short_help="Show what a file consists of, and whether a runtime keeps the contract.")
@click.argument("model", required=False, type=PATH)
@click.option("--runtime", is_flag=True, help="Probe onnxruntime on this machine: does it keep the contract?")
@shape_option
def inspect_command(model: Path | None, runtime: bool, shape: tuple[int, ...] | None) -> int:
    """Show what MODEL takes, yields and consists of; say what of it is not supported.

    With --runtime, also probe how this machine's onnxruntime computes, and compare MODEL on it with its bounds.
    """
    from verify import terminal
    from verify.model.network import load

    if not (model or runtime):
        raise click.UsageError("name a MODEL, or use --runtime, or both")
    network = load(model, shape) if model else None
    if model and network:
        terminal.show_network(model, network)
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            fail("only models with one input and one output are verified", 4)
    if not runtime:
        return 0
    from verify.conformance import findings

    return 1 if terminal.show_conformance(findings((network, model) if model and network else None)) else 0


@commands.command("bounds", short_help="Compile interval bounds to ONNX, for serving.")
@click.argument("model", type=PATH)
@click.option("--out", metavar="FILE", type=PATH, required=True, help="The ONNX file.")
@shape_option
@quiet_option
def bounds_command(model: Path, out: Path, shape: tuple[int, ...] | None) -> None:
    """Compile the bounds of MODEL, a classifier, to an ONNX graph that any float32 runtime runs.

    It takes x and eps and yields the logits, intervals of the logits over the box, margins of the predicted class, and
    whether the prediction is certified.
    """
    from verify.compiled import compile_bounds
    from verify.files import write_atomically
    from verify.model.network import load
    from verify.tasks.task import input_range

    network = load(model, shape)
    graph = compile_bounds(network, input_range(network.metadata))
    write_atomically(out, graph.SerializeToString(deterministic=True))
    say(f"{out}: {len(graph.graph.node)} nodes, opset {graph.opset_import[0].version}")


@commands.command("train", short_help="Train a classifier by a recipe.")
@click.argument("recipe", default="mnist-quick")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. teacher.epochs=3."
)
@click.option("--out", metavar="FOLDER", type=PATH, help="The new run folder. Default: runs/RECIPE.")
@click.option("--resume", type=PATH, metavar="RUN", help="Continue the run in this folder.")
@click.option(
    "--teacher", metavar="RUN", type=PATH, help="Use this finished run, its model.pt, or FILE.onnx as teacher."
)
@device_option
@click.option("--seed", metavar="N", type=click.IntRange(min=0), help="The same as --set seed=N.")
@click.option(
    "--tensorboard", is_flag=True, help="Write the losses and accuracies for TensorBoard too, in the run folder."
)
@quiet_option
@click.pass_context
def train_command(
    context: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    teacher: Path | None,
    device: str,
    seed: int | None,
    tensorboard: bool,
) -> None:
    """Train a classifier by RECIPE: the name of one that ships with adcert, or a TOML file.

    On several GPUs: torchrun --nproc-per-node N cli.py train RECIPE.
    """
    given = context.get_parameter_source("recipe") is not click.core.ParameterSource.DEFAULT
    if resume and (given or overrides or out or teacher or seed is not None):
        raise click.UsageError("--resume takes everything but --device from the run folder")

    from adcert import processes, session
    from adcert import recipe as recipes
    from adcert import run as runs
    from adcert.problems import Interrupted
    from adcert.progress import Several, reporter, show_recipe, summary
    from verify.errors import Problem

    if tensorboard:
        from adcert.tensorboard import TensorBoard

    with processes.joined():
        chosen = session.select_device(device)
        if resume:
            run = runs.open_run(resume)
        else:
            settings = [*overrides, *([f"seed={seed}"] if seed is not None else [])]
            run = session.start(out or Path("runs") / Path(recipe).stem, recipes.load(recipe, settings), teacher)
        if run.finished:
            say(f"{run.folder} is finished; export it with: export {run.folder}")
            return
        watching = reporter(quiet=quiet())
        if tensorboard and processes.rank() == 0:
            watching = Several(watching, TensorBoard(run.folder / "tensorboard"))
        if not quiet():
            show_recipe(recipes.to_toml(run.recipe), run.folder / "recipe.toml")
        try:
            trained = session.execute(run, chosen, watching)
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted; continue with: train --resume {run.folder}") from None
        except Problem:
            if not resume:
                run.discard_unless_begun()
            raise
        say(f"{run.model_path}: {summary(trained.held_out)}")


@commands.command("study", short_help="Train, export and verify many students, and compare them.")
@click.argument("study", metavar="STUDY")
@click.option("--out", metavar="FOLDER", type=PATH, help="The study's folder. Default: runs/STUDY.")
@device_option
@click.option("--list", "only_list", is_flag=True, help="Only name the students.")
@jobs_option
@quiet_option
def study_command(study: str, out: Path | None, device: str, only_list: bool, jobs: int) -> int:
    """Train, export and verify every student of STUDY: the name of one that ships with adcert, or a TOML file.

    What is done already is kept: the same command goes on with an interrupted study. Results go to results.csv,
    results.json, results.md and one picture per recipe.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise click.UsageError("a study trains its students one by one, in one process; torchrun is for train")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from adcert import session
    from adcert import study as studies
    from adcert.progress import reporter

    chosen = studies.load(study)
    if only_list:
        for student in chosen.students:
            click.echo(student.name if chosen.is_candidate(student) else f"{student.name} (if selected)")
        return 0
    folder = out or Path("runs") / chosen.name
    found = studies.execute(chosen, folder, session.select_device(device), reporter(quiet=quiet()), say, jobs=jobs)
    try:
        for outcomes in found:
            written = studies.write(chosen, folder, outcomes)
    except KeyboardInterrupt:
        click.echo(f"Interrupted; go on with: study {study} --out {folder}", err=True)
        return INTERRUPTED
    say(", ".join(map(str, written)))
    return 1 if any(outcome.problem for outcome in outcomes) else 0


@commands.command("export", short_help="Write a finished run as ONNX, or quantise a model.")
@click.argument("run", type=PATH)
@click.option("--out", metavar="FILE", type=PATH, help="The ONNX file. Default: model.onnx beside RUN's model.")
@click.option("--int8", is_flag=True, help="Quantise to eight bits; RUN may also be an ONNX file.")
@click.option(
    "--data", metavar="NAME", help="For --int8: a data set or .npz to calibrate with. Default: the model's own."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["qdq", "qoperator"]),
    help="Of the quantised file: float operators between DequantizeLinear and QuantizeLinear, which runtimes may "
    "execute on integers (the default), or operators on integers.",
)
@quiet_option
def export_command(run: Path, out: Path | None, int8: bool, data: str | None, form: str | None) -> int:
    """Write the finished model of RUN (a run folder or a model.pt) as ONNX, once onnxruntime agrees with torch."""
    if int8:
        return _export_int8(run, out, form or "qdq", data)
    if form or data:
        raise click.UsageError("--format and --data are about the quantised file: they need --int8")
    from adcert.export import export
    from adcert.run import load_trained

    path = out or (run if run.is_dir() else run.parent) / "model.onnx"
    comparison = export(load_trained(run), path)
    say(
        f"{path}: onnxruntime and torch differ by at most {comparison.max_difference:.2g} in a logit "
        f"and agree on {comparison.equal_argmax} of {comparison.images} images"
    )
    return 0


def _export_int8(run: Path, out: Path | None, form: str, data: str | None) -> int:
    """Quantise the model of a run, or of a file."""
    from adcert.quantise import export_int8
    from verify.files import read_bytes

    if run.suffix == ".onnx":
        source, default = read_bytes(run), run.with_name(f"{run.stem}-int8.onnx")
    else:
        from adcert.export import compared_model
        from adcert.run import load_trained

        source = compared_model(load_trained(run))[0].SerializeToString(deterministic=True)
        default = (run if run.is_dir() else run.parent) / "model-int8.onnx"
    path = out or default
    agreement = export_int8(source, form, path, data)
    say(
        f"{path}: agrees with the float model on {agreement.equal_argmax} of {agreement.images} images; onnxruntime's "
        f"optimisation levels differ by at most {agreement.max_difference:.2g} in a logit, all within the bounds"
    )
    return 0


def main() -> None:
    """Run the command line; whatever a user can cause ends in one sentence and an exit code, not in a traceback."""
    from verify.errors import Problem

    # Threads that wait must not spin: beside any other busy process that makes a step ten times as slow. Read by OpenMP
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Processes that train together are ended at once: one that waits for another would never hear of it.
    if os.environ.get("WORLD_SIZE", "1") == "1":
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(commands(standalone_mode=False) or 0)
    except Problem as problem:
        fail(str(problem), problem.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", INTERRUPTED)
    except MemoryError:
        fail("there is not enough memory for this model", 4)
    except OSError as error:
        fail(str(error), 2)
    except ModuleNotFoundError as missing:
        fail(f"the package {missing.name} is not installed, which this command needs", 2)
    except Exception:
        import traceback

        if _speaks():
            traceback.print_exc()
        fail("this is a defect of adcert: please report it with the lines above", 70)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Whoever asks the process to end gets what Ctrl-C gets: nothing that is done is lost."""
    raise KeyboardInterrupt


def _speaks() -> bool:
    """Whether this process is the one that says how it ends, if several train together."""
    processes = sys.modules.get("adcert.processes")
    return processes is None or bool(processes.speaks())


def fail(sentence: str, exit_code: int) -> NoReturn:
    """Say what went wrong on stderr and leave with `exit_code`."""
    if _speaks():
        click.echo(f"Error: {sentence}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
