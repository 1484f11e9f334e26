"""`verify` and `inspect` as a script uses them: exit codes, the result file, messages."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

from support.command_line import ROOT, adcert
from support.command_line import adcert_in_process as in_process
from support.onnx_models import ALL, model, node
from support.relu_networks import ReluNetwork
from verify import judgement
from verify.proofs.certificate import Certificate
from verify.tasks.robustness import Status, Verdict
from verify.version import __version__


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Answers the larger of two numbers: certain where they differ by more than twice eps."""
    path = tmp_path / "model.onnx"
    metadata = {"adcert.eps": "1/10", "adcert.dataset": str(tmp_path / "data.npz"), "adcert.input_range": "[0, 1]"}
    weights = {"w": np.eye(2, dtype=np.float32)}
    path.write_bytes(model([node("Gemm", ["x", "w"], "y")], ["n", 2], weights, metadata=metadata))
    x = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.1, 0.9]], np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.array([0, 1, 0, 0]))
    return path


def test_everything_that_can_be_known_comes_from_the_model(classifier: Path) -> None:
    done = adcert("verify", classifier, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["schema_version"] == 1
    assert result["eps"] == 0.1
    assert result["eps_exact"] == "1/10"
    assert result["input_range"] == [0, 1]
    assert result["contract"] == "float32-any-order"
    assert result["method"] == "ibp"
    assert result["norm"] == "linf"
    assert [sample["status"] for sample in result["samples"]] == ["verified", "verified", "unknown", "misclassified"]
    assert [sample["decided_by"] for sample in result["samples"]] == ["ibp", "ibp", None, None]
    assert [sample["prediction"] for sample in result["samples"]] == [0, 1, 0, 1]
    assert result["samples"][0]["margin_lower"] == pytest.approx(0.6, abs=1e-5)
    summary = result["summary"]
    assert summary["clean_accuracy"] == 75
    assert summary["certified_accuracy"] == 50
    assert summary["undecided"] == 1
    assert summary["attacked_accuracy"] is None
    assert result["versions"]["adcert"] == __version__
    assert result["data"]["count"] == 4
    assert "certified accuracy" in done.stderr


def test_options_override_the_model(classifier: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, x=np.array([[0, 255], [255, 0]], np.uint8), y=np.array([1, 1]))
    done = adcert(
        "verify",
        classifier,
        "--data",
        other,
        "--eps",
        "2/255",
        "--count",
        1,
        "--contract",
        "real",
        "--json",
        tmp_path / "result.json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["eps_exact"] == "2/255"
    assert result["contract"] == "real"
    assert result["data"]["name"] == "other.npz"
    assert [sample["status"] for sample in result["samples"]] == ["verified"]
    assert done.stdout == ""
    assert "real numbers only" in done.stderr


def test_inputs_have_the_range_that_is_said(classifier: Path, tmp_path: Path) -> None:
    data = tmp_path / "bright.npz"
    np.savez(data, x=np.array([[254, 3]], np.float32), y=np.array([0]))
    arguments = "--data", data, "--eps", "2", "--input-range", "0,255", "--json", "-"
    result = json.loads(adcert("verify", classifier, *arguments).stdout)
    assert result["input_range"] == [0, 255]
    assert result["samples"][0]["margin_lower"] == pytest.approx(252 - 5, abs=1e-3)  # clipped at 255
    attacked = json.loads(adcert("attack", classifier, *arguments).stdout)
    assert attacked["input_range"] == [0, 255]
    assert "leave the range [0, 1]" in adcert("verify", classifier, *arguments[:4]).stderr.replace(".0", "")


@pytest.mark.parametrize(("percent", "code"), [("50", 0), ("50.1", 1)])
def test_fail_under(classifier: Path, percent: str, code: int) -> None:
    done = adcert("verify", classifier, "--fail-under", percent, "--quiet")
    assert done.returncode == code
    assert done.stderr == ("Error: 50 % certified is less than --fail-under 50.1\n" if code else "")


def test_start_and_count_choose_samples(classifier: Path) -> None:
    done = adcert("verify", classifier, "--start", 1, "--count", 2, "--json", "-")
    assert [sample["index"] for sample in json.loads(done.stdout)["samples"]] == [1, 2]


def broken(tmp_path: Path, what: str) -> list[str]:
    """Arguments with one thing wrong."""
    good = str(tmp_path / "model.onnx")
    if what == "no model":
        return [str(tmp_path / "absent.onnx")]
    if what == "not onnx":
        (tmp_path / "text.onnx").write_text("hello")
        return [str(tmp_path / "text.onnx")]
    if what == "unsupported":
        (tmp_path / "tan.onnx").write_bytes(model([node("Tan", ["x"], "y")], [1, 2], {}))
        return [str(tmp_path / "tan.onnx"), "--eps", "0.1", "--data", "mnist"]
    if what == "no data set":
        (tmp_path / "plain.onnx").write_bytes(model([node("Relu", ["x"], "y")], [1, 2], {}))
        return [str(tmp_path / "plain.onnx"), "--eps", "0.1"]
    if what == "labels":
        np.savez(tmp_path / "bad.npz", x=np.zeros((1, 2), np.float32), y=np.array([2]))
        return [good, "--data", str(tmp_path / "bad.npz")]
    if what == "nan":
        np.savez(tmp_path / "bad.npz", x=np.full((1, 2), np.nan, np.float32), y=np.array([0]))
        return [good, "--data", str(tmp_path / "bad.npz")]
    if what == "not npz":
        (tmp_path / "bad.npz").write_text("hello")
        return [good, "--data", str(tmp_path / "bad.npz")]
    if what == "no y":
        np.savez(tmp_path / "bad.npz", x=np.zeros((1, 2), np.float32))
        return [good, "--data", str(tmp_path / "bad.npz")]
    return [good, *what.split()]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no model", 4),
        ("not onnx", 4),
        ("unsupported", 4),
        ("no data set", 2),
        ("labels", 2),
        ("nan", 2),
        ("not npz", 2),
        ("no y", 2),
        ("--data mnist", 2),
        ("--data nothing", 2),
        ("--eps lots", 2),
        ("--eps -1", 2),
        ("--input-range 1,0", 2),
        ("--input-range 0", 2),
        ("--input-range 0,inf", 2),
        ("--input-range 0,nan", 2),
        ("--input-range wide", 2),
        ("--count 0", 2),
        ("--start 9", 2),
        ("--start -1", 2),
        ("--contract bfloat16", 2),
        ("--json no/such/folder/r.json", 2),
        ("--card no/such/folder/card.md", 2),
        ("--report .", 2),
        ("--certificates model.onnx", 2),
        ("--resume", 2),
        ("--surprise", 2),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_with_the_right_exit_code(
    classifier: Path, tmp_path: Path, what: str, code: int
) -> None:
    done = adcert("verify", *broken(tmp_path, what), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr
    assert done.stdout == ""


def test_an_interrupted_run_is_continued(tmp_path: Path) -> None:
    path, result = tmp_path / "model.onnx", tmp_path / "result.json"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(784, 10)).astype(np.float32)}
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "y")]
    path.write_bytes(model(nodes, ["n", 1, 28, 28], weights))
    arguments = ["verify", path, "--data", "mnist", "--eps", "0.001", "--count", "600", "--json", result]
    whole = adcert(*arguments, "--resume")  # nothing yet to go on with
    assert whole.returncode == 0, whole.stderr
    complete = json.loads(result.read_text())
    assert len(complete["samples"]) == 600
    partial = complete | {"samples": complete["samples"][:250]}
    result.write_text(json.dumps(partial))
    assert adcert(*arguments, "--resume").returncode == 0
    continued = json.loads(result.read_text())

    for ours, theirs in zip(continued["samples"], complete["samples"], strict=True):
        assert {**ours, "time_s": 0, "margin_lower": 0} == {**theirs, "time_s": 0, "margin_lower": 0}
        assert ours["margin_lower"] == pytest.approx(theirs["margin_lower"])  # other batches round differently
    assert continued["samples"][:250] == partial["samples"]
    other = adcert(*arguments, "--resume", "--eps", "0.002")
    assert other.returncode == 2
    assert "eps" in other.stderr


def interrupted(model: Path, result: Path, sample: int, signal: str = "SIGINT") -> subprocess.CompletedProcess[str]:
    """verify, and Ctrl-C, or another signal, when it comes to that sample."""
    program = (
        "import sys, signal, cli\n"
        "from verify.tasks import robustness\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in the background\n"
        "original = robustness.box_around\n"
        "calls = []\n"
        "def interrupted(*arguments):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == {sample + 1}:\n"
        f"        signal.raise_signal(signal.{signal})\n"
        "    return original(*arguments)\n"
        "robustness.box_around = interrupted\n"
        "robustness.lanes_at_a_time = lambda *arguments: 1\n"
        f"sys.argv = ['adcert', 'verify', {str(model)!r}, '--json', {str(result)!r}]\n"
        "cli.main()\n"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_whoever_ends_a_run_keeps_what_was_found(signal: str, classifier: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = interrupted(classifier, result, 2, signal)
    assert done.returncode == 130
    assert "certified accuracy  100.00 %" in done.stderr  # of the two that were found
    assert f"interrupted after 2 of 4 samples: {result} holds what was found; go on with" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads(result.read_text())["samples"]) == 2
    assert adcert("verify", classifier, "--json", result, "--resume").returncode == 0
    assert len(json.loads(result.read_text())["samples"]) == 4


def test_ctrl_c_before_anything_was_found_promises_nothing(classifier: Path, tmp_path: Path) -> None:
    done = interrupted(classifier, tmp_path / "result.json", 0)
    assert done.returncode == 130
    assert done.stderr == "Error: interrupted before the first verdict\n"


def test_a_reader_that_leaves_early_causes_no_traceback(classifier: Path) -> None:
    command = f"{sys.executable} {ROOT / 'cli.py'} verify {classifier} --json - | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_inspect_shows_what_the_model_is(classifier: Path) -> None:
    done = adcert("inspect", classifier, env={**os.environ, "COLUMNS": "60"})
    assert done.returncode == 0
    assert "1 x 2" in done.stderr
    assert hashlib.sha256(classifier.read_bytes()).hexdigest() in re.sub(r"\s+", "", done.stderr)
    assert "adcert.eps" in done.stderr


def test_the_columns_of_a_narrow_terminal_do_not_break_the_table(classifier: Path) -> None:
    done = adcert("verify", classifier, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 0


def test_certificates_are_checked_anew(classifier: Path, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    done = adcert("verify", classifier, "--certificates", folder, "--json", "-")
    assert done.returncode == 0, done.stderr
    files = sorted(folder.iterdir())
    named = [sample["certificate"] for sample in json.loads(done.stdout)["samples"]]
    assert named == [*map(str, files), None, None]
    done = adcert("check", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{file}: valid" for file in files]
    about = "2 of them: the answer is the label in a box of radius 0.1, as executed in float32 by a runtime that keeps"
    assert about in done.stderr
    fields = json.loads(files[0].read_text())
    fields["property"]["label"] = 1
    files[0].write_text(json.dumps(fields))
    done = adcert("check", *files)
    assert done.returncode == 1
    assert "rejected: bounds by ibp do not prove it" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1] == f"{files[1]}: valid"
    assert adcert("check", tmp_path / "absent.json").returncode == 2
    fields["property"]["label"] = 0
    fields["contract"] = "real"
    files[0].write_text(json.dumps(fields))
    done = adcert("check", files[0])
    assert "over the real numbers only: says nothing about execution in float32" in done.stderr


def test_what_is_too_large_for_memory_hides_no_other_file(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adcert("verify", classifier, "--certificates", tmp_path / "certificates")
    first, second = sorted((tmp_path / "certificates").iterdir())
    decode = judgement.decode

    def decode_some(content: bytes) -> Certificate:
        if content == first.read_bytes():
            raise MemoryError
        return decode(content)

    monkeypatch.setattr(judgement, "decode", decode_some)
    done = in_process("check", first, second)
    assert done.returncode == 4
    assert f"Error: there is not enough memory to check {first}\n" in done.stderr
    assert done.stdout == f"{second}: valid\n"


def test_what_a_method_leaves_open_names_a_better_one(branching: Path) -> None:
    assert "2  (--method crown tries harder)" in searched(branching).stderr
    assert "1  (--method complete tries harder)" in searched(branching, "--method", "crown").stderr
    assert "tries harder" not in searched(branching, "--method", "complete").stderr


def test_inspect_of_a_model_that_nothing_verifies(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    nodes = [node("Relu", ["x"], "y"), node("Neg", ["x"], "z")]
    path.write_bytes(model(nodes, [1, 2], {}, outputs=["y", "z"]))
    done = adcert("inspect", path)
    assert done.returncode == 4
    assert "Error: only models with one input and one output are verified" in done.stderr


@pytest.fixture
def branching(tmp_path: Path) -> Path:
    """A network that it takes splits to verify at its first sample, and linear bounds at the second."""
    made = ReluNetwork.random(np.random.default_rng(11), [3, 8, 8, 3], 2.0)
    path = tmp_path / "branching.onnx"
    path.write_bytes(made.onnx())
    hard = np.random.default_rng(3).random((1, 3))
    x = np.concatenate([hard, 100 * hard]).astype(np.float32)
    np.savez(tmp_path / "hard.npz", x=x, y=made.run(x, ALL)[0].argmax(axis=1))
    return path


def searched(model: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    data = model.parent / "hard.npz"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return adcert("verify", model, "--data", data, "--eps", "0.8", *arguments, env=environment)


def test_the_cheapest_method_that_settles_a_sample_is_named_and_its_proof_can_be_checked(
    branching: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "certificates"
    done = searched(branching, "--method", "complete", "--timeout", "60", "--certificates", folder, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["timeout_s"] == 60
    assert [(each["status"], each["decided_by"]) for each in result["samples"]] == [
        ("verified", "complete"),
        ("verified", "crown-ibp"),
    ]
    assert result["samples"][0]["margin_lower"] > 0
    done = adcert("check", *sorted(folder.iterdir()), "--model", branching)
    assert done.returncode == 0
    assert done.stdout.count(": valid") == 2


def test_a_search_ends_in_time(branching: Path) -> None:
    done = searched(branching, "--method", "complete", "--timeout", "1e-9", "--json", "-")
    result = json.loads(done.stdout)
    assert [each["status"] for each in result["samples"]] == ["timeout", "timeout"]
    assert result["summary"]["undecided"] == 2


def test_a_search_that_is_continued_asks_for_the_same_time(branching: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert searched(branching, "--method", "alpha-crown", "--json", path).returncode == 0
    result = json.loads(path.read_text())
    assert result["timeout_s"] == 20
    assert [each["status"] for each in result["samples"]] == ["unknown", "verified"]
    other = searched(branching, "--method", "alpha-crown", "--timeout", "5", "--json", path, "--resume")
    assert other.returncode == 2
    assert "timeout" in other.stderr


def test_without_torch_a_search_ends_in_a_sentence(branching: Path) -> None:
    program = "import sys, cli; sys.modules['torch'] = None; cli.main()"
    data = str(branching.parent / "hard.npz")
    arguments = ["verify", str(branching), "--data", data, "--eps", "0.8", "--method", "complete"]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--eps", "1e400"],
        ["--eps", "1e9999999999"],
        ["--eps", "nan"],
        ["--fail-under", "nan"],
        ["--method", "complete", "--timeout", "nan"],
        ["--method", "complete", "--timeout", "inf"],
    ],
)
def test_numbers_that_mean_nothing_are_refused(classifier: Path, arguments: list[str]) -> None:
    done = adcert("verify", classifier, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method", ["alpha-crown", "complete"])
def test_a_search_with_nothing_left_to_search_behind_a_softmax(tmp_path: Path, method: str) -> None:
    nodes = [node("Gemm", ["x", "w"], "p"), node("Relu", ["p"], "h"), node("Softmax", ["h"], "y")]
    (tmp_path / "soft.onnx").write_bytes(model(nodes, ["n", 2], {"w": np.eye(2, dtype=np.float32)}))
    np.savez(tmp_path / "x.npz", x=np.array([[3, 1], [1, 3]], np.float32), y=np.array([0, 1]))
    arguments = ["--data", tmp_path / "x.npz", "--eps", "0.1", "--method", method, "--json", "-"]
    done = adcert("verify", tmp_path / "soft.onnx", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["certified_accuracy"] == 100.0


@pytest.mark.parametrize("change", ["doubled", "foreign", "no object", "no number", "older", "other label"])
def test_a_result_that_does_not_begin_the_same_run_is_not_continued(
    classifier: Path, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "result.json"
    assert adcert("verify", classifier, "--json", path).returncode == 0
    content = json.loads(path.read_text())
    if change == "doubled":
        content["samples"] *= 2
    elif change == "foreign":
        content["samples"] = content["samples"][1:]
    elif change == "no number":
        content["samples"][0]["time_s"] = "1"
    elif change == "older":
        content["versions"]["adcert"] = "0.0.1"
    elif change == "other label":
        content["samples"][0]["label"] += 1
    else:
        content["model"] = "x"
    path.write_text(json.dumps(content))
    done = adcert("verify", classifier, "--json", path, "--resume")
    assert done.returncode == 2
    assert "cannot be continued" in done.stderr or "can be continued" in done.stderr


def test_certificates_are_not_missing_after_a_resumed_run(classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert adcert("verify", classifier, "--json", path).returncode == 0
    done = adcert("verify", classifier, "--json", path, "--resume", "--certificates", tmp_path / "proofs")
    assert done.returncode == 2
    assert "certificates" in done.stderr


def test_a_report_of_a_property_is_refused(classifier: Path, tmp_path: Path) -> None:
    done = adcert("verify", classifier, "--vnnlib", tmp_path / "p.vnnlib", "--report", tmp_path / "r.html")
    assert done.returncode == 2
    assert "--report" in done.stderr


def test_accuracy_against_eps_is_computed_when_asked_for(classifier: Path, tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "page.html"
    radii = ["--curve", "0.3, 0,1/10,9/20"]
    done = in_process("verify", classifier, *radii, "--attack", "--json", result, "--report", page)
    assert done.returncode == 0, done.stderr
    curve = json.loads(result.read_text())["curve"]
    for point, own in zip(curve, ("0", "3/10", "9/20"), strict=True):
        alone = tmp_path / "alone.json"
        assert in_process("verify", classifier, "--eps", own, "--attack", "--json", alone).returncode == 0
        expected = json.loads(alone.read_text())
        assert point["eps_exact"] == own
        for key in ("clean_accuracy", "attacked_accuracy", "certified_accuracy", "undecided"):
            assert point[key] == expected["summary"][key], (own, key)
    assert [point["certified_accuracy"] for point in curve] == [75.0, 25.0, 0.0]
    assert "Accuracy against eps" in page.read_text()
    assert "ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.45" in page.read_text()
    assert in_process("verify", classifier, "--json", result, "--resume", "--attack").returncode == 0
    refused = in_process("verify", classifier, "--curve", "0.1,,0.2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "eps must be a decimal or a fraction" in refused.stderr


def test_a_package_that_is_missing_is_named(classifier: Path) -> None:
    program = (
        "import sys, cli\n"
        "sys.modules['rich'] = None\n"
        f"sys.argv = ['adcert', 'verify', {str(classifier)!r}]\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the package rich")
    assert done.stderr.count("\n") == 1


def test_a_card_says_what_was_found_and_how_to_find_it_again(classifier: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    assert in_process("verify", classifier, "--attack", "--card", card).returncode == 0
    text = card.read_text()
    for words in (
        "# model",
        "| clean accuracy | 75.00 % |",
        "| attacked accuracy | 50.00 % (40 steps, 8 restarts) |",
        "| certified accuracy | 50.00 % (ibp) |",
        "| undecided | 0 of 4 |",
        "| contract | `float32-any-order` |",
        "Nothing is said about other perturbations",
        "| input_range | `[0, 1]` |",
    ):
        assert words in text, text
    command = re.search(r"`adcert (verify .*)`", text)
    assert command
    again = adcert(*command[1].split(), "--quiet", "--json", "-", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["summary"]["certified_accuracy"] == 50.0


def test_quiet_says_nothing_but_errors(classifier: Path, tmp_path: Path) -> None:
    page, graph, found = tmp_path / "page.html", tmp_path / "bounds.onnx", tmp_path / "found.npz"
    for command in (
        ["verify", classifier, "--quiet", "--curve", "0.2", "--json", tmp_path / "result.json"],
        ["attack", classifier, "-q", "--out", found],
        ["report", tmp_path / "result.json", "-q", "--out", page],
        ["bounds", classifier, "-q", "--out", graph],
    ):
        done = in_process(*command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert page.exists()
    assert graph.exists()
    assert found.exists()
    assert "certified" in in_process("verify", classifier).stderr
    assert in_process("verify", tmp_path / "nothing.onnx", "-q").stderr.startswith("Error: ")


def test_the_bar_counts_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from verify import terminal

    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(terminal, "CONSOLE", screen)
    statuses = [Status.VERIFIED, Status.UNKNOWN, Status.MISCLASSIFIED, Status.TIMEOUT]
    verdicts = [Verdict(i, 0, int(i == 2), status, None, 0.0, 0.0) for i, status in enumerate(statuses)]
    watch = terminal.progress(verdicts[:1], 5)
    assert list(watch(iter(verdicts[1:]))) == verdicts[1:]
    shown = screen.file.getvalue()
    assert "1/5 clean 100.0 %, certified 100.0 %, undecided 0" in shown  # before anything new is known
    assert "4/5 clean 75.0 %, certified 25.0 %, undecided 2" in shown
    assert " left" in shown
    attacked = terminal.progress([replace(verdicts[0], status=Status.COUNTEREXAMPLE)], 5, proves=False)
    assert list(attacked(iter(verdicts[1:2]))) == verdicts[1:2]
    assert "2/5 clean 100.0 %, counterexamples 1" in screen.file.getvalue()
    for what in ("", "eps 0.15"):
        narrow = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
        monkeypatch.setattr(terminal, "CONSOLE", narrow)
        assert len(list(terminal.progress([], 9999, what)(repeat(verdicts[1], 9999)))) == 9999
        assert "9999/9999 clean 100.0 %, certified 0.0 %, undecided 9999" in narrow.file.getvalue()
    narrow.quiet = True
    assert terminal.progress([], 5) is iter


def test_the_version_is_said() -> None:
    done = adcert("--version")
    assert (done.returncode, done.stdout) == (0, f"adcert {__version__}\n")


def test_a_shell_can_complete_commands_and_options() -> None:
    program = "import sys, cli; sys.argv = ['adcert']; cli.main()"

    def completed(words: str) -> list[str]:
        environment = {**os.environ, "_ADCERT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        return [line.split(",")[1] for line in done.stdout.splitlines()]

    assert "--fail-under" in completed("adcert verify --f")
    assert completed("adcert inspect --run") == ["--runtime"]
