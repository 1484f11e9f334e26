"""Reports: what they say, that they are self-contained, and what they refuse."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import subprocess
import sys
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.onnx_models import model, node
from verify.report import read_file, read_result, write_report
from verify.report.page import page as page_about
from verify.report.pictures import Pictures, png
from verify.report.results import ReportProblem
from verify.report.wording import percent
from verify.tasks.samples import read_data

ROOT = Path(__file__).parent.parent.parent
STYLE = (ROOT / "verify" / "report" / "report.css").read_text()
VOID = {"meta", "img"}


def sample(index: int, label: int, prediction: int, status: str, **more: Any) -> dict[str, Any]:
    by = {"verified": "ibp", "counterexample": "attack"}.get(status)
    known = {"index": index, "label": label, "prediction": prediction, "status": status, "decided_by": by}
    return {**known, "margin_lower": None, "time_s": 0.25, "certificate": None, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With data.npz, six pictures of 4 x 4, and result.json about it."""
    x = np.arange(6 * 16, dtype=np.float32).reshape(6, 1, 4, 4) / 128
    np.savez(tmp_path / "data.npz", x=x, y=np.array([0, 1, 0, 1, 0, 1]))
    moved = (x[3] + np.float32(0.0625)).ravel().tolist()
    result = {
        "schema_version": 1,
        "model": {"path": "models/tiny.onnx", "sha256": "ab" * 32},
        "contract": "float32-any-order",
        "method": "crown",
        "norm": "linf",
        "eps": 2 / 255,
        "eps_exact": "2/255",
        "input_range": [0, 1],
        "data": {
            "name": "data.npz",
            "split": None,
            "start": 0,
            "count": 6,
            "sha256": read_data(str(tmp_path / "data.npz")).sha256,
        },
        "summary": {
            "clean_accuracy": 500 / 6,
            "attacked_accuracy": 400 / 6,
            "certified_accuracy": 200 / 6,
            "undecided": 2,
            "time_s": 1.5,
        },
        "samples": [
            sample(0, 0, 0, "verified", margin_lower=1.5),
            sample(1, 1, 1, "verified", margin_lower=0.25, decided_by="crown"),
            sample(2, 0, 0, "unknown", margin_lower=-0.5),
            sample(3, 1, 1, "counterexample", margin_lower=-1.0, counterexample=moved),
            sample(4, 0, 0, "timeout"),
            sample(5, 1, 0, "misclassified", margin_lower=-2.0),
        ],
        "versions": {"adcert": "9.9.9", "torch": None},
        "timeout_s": 20.0,
        "attack": {"steps": 40, "restarts": 8},
        "something": {"nobody": "knows"},
    }
    save(tmp_path / "result.json", result)
    return tmp_path


def save(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def changed(folder: Path, **changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return {**result, **changes}


def report(folder: Path, *names: str) -> str:
    results = [read_file(folder / name) for name in names or ["result.json"]]
    write_report(folder / "report.html", results, folders=[folder])
    return (folder / "report.html").read_text()


class Reader(HTMLParser):
    """Checks that elements are closed in order, and gathers what there is. Style and script are kept apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(attributes) == len(dict(attributes))
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.elements if name == tag and wanted.items() <= own.items()]


def pixels_of(address: str | None) -> NDArray[np.uint8]:
    """Decode a PNG file as it is written here: no filters, no interlacing."""
    assert address
    assert address.startswith("data:image/png;base64,")
    file = base64.b64decode(address.split(",", 1)[1], validate=True)
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(file):
        (size,) = struct.unpack(">I", file[place : place + 4])
        kind, body = file[place + 4 : place + 8], file[place + 8 : place + 8 + size]
        assert struct.unpack(">I", file[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert depth == 8
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape((height, width, 3) if colour == 2 else (height, width))


def test_the_numbers_are_those_of_the_result(folder: Path) -> None:
    text = Reader(report(folder)).text
    for words in (
        "33.33 % certified at ε = 2/255",
        "For 2 of 6 data.npz samples it is proved",
        "under the contract float32-any-order",
        "at least 33.33 % and at most 66.67 %",
        "Clean 83.33 %",
        "Attacked 66.67 %",
        "Certified 33.33 %",
        "Undecided 33.33 %",
        "2 certified : classified correctly",
        "1 with a counterexample : classified",
        "crown 1 16.67 % 250 ms 250 ms",
        "none (timeout) 1 16.67 %",
        "all 6 100.00 % 1.50 s",
        "class 0 3 100.00 % 33.33 % 2 0 0",
        "class 1 3 66.67 % 33.33 % 0 1 1",
        "certified 2 0.25 0.875 1.5",
        "model SHA-256 " + "ab" * 32,
        "adcert 9.9.9",
        "time limit 20 s per sample attack steps 40, restarts 8",
        "every input within the perturbation (ℓ∞, ε = 2/255 inside [0, 1])",
        "What it does not mean",
        "undecided samples",
    ):
        assert words in text
    assert "Unfinished" not in text


def test_the_distribution_of_margins_counts_every_bound(folder: Path) -> None:
    bars = [own for own in Reader(report(folder)).all("rect") if (own["class"] or "").startswith("fill")]
    assert Counter((own["class"] or "").split()[1] for own in bars if own["height"] != "26") == {
        "certified": 2,
        "undecided": 1,
        "counterexample": 1,
        "misclassified": 1,
    }


def test_pictures_are_those_of_the_data_with_the_perturbation(folder: Path) -> None:
    page = Reader(report(folder))
    x = read_data(str(folder / "data.npz")).images
    cards = page.all("details", name="pictures-1")
    assert [card["data-outcome"] for card in cards] == [
        "counterexample",
        *["undecided"] * 2,
        "misclassified",
        *["certified"] * 2,
    ]
    images = page.all("img")
    assert [image["alt"] for image in images[-2:]] == ["Sample 1, certified: class 1", "Sample 0, certified: class 0"]
    np.testing.assert_array_equal(pixels_of(images[-2]["src"]), np.rint(255 * x[1, 0].astype(float)))
    original, counterexample, difference = (pixels_of(image["src"]) for image in images[:3])
    np.testing.assert_array_equal(original, np.rint(255 * x[3, 0].astype(float)))
    np.testing.assert_array_equal(counterexample, np.rint(255 * (x[3, 0].astype(float) + 0.0625)))
    assert (difference == 255).all()
    assert "at most 0.0625" in page.text
    assert "all 2 certified, all 2 undecided, the 1 with a counterexample, the 1 misclassified" in page.text


def test_pictures_in_colour_and_as_bytes(folder: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (6, 3, 5, 7), np.uint8)
    np.savez(folder / "data.npz", x=x, y=np.array([0, 1, 0, 1, 0, 1]))
    result = changed(folder)
    result["data"]["sha256"] = read_data(str(folder / "data.npz")).sha256
    save(folder / "result.json", result)
    image = Reader(report(folder)).all("img")[-2]
    np.testing.assert_array_equal(pixels_of(image["src"]), np.moveaxis(x[1], 0, -1))
    assert (image["width"], image["height"]) == ("7", "5")


def test_grey_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9), np.uint8)
    np.testing.assert_array_equal(pixels_of(png(pixels)), pixels)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("absent", "is not on this machine"),
        ("other data", "its SHA-256 is another"),
        ("vectors", "are no pictures"),
        ("outside", "is not on this machine"),
    ],
)
def test_without_the_data_the_report_says_so(folder: Path, case: str, reason: str) -> None:
    result = changed(folder)
    if case == "absent":
        (folder / "data.npz").unlink()
    elif case == "other data":
        np.savez(folder / "data.npz", x=np.zeros((6, 1, 4, 4), np.float32), y=np.zeros(6, int))
    elif case == "vectors":
        np.savez(folder / "data.npz", x=np.zeros((6, 5), np.float32), y=np.zeros(6, int))
        result["data"]["sha256"] = read_data(str(folder / "data.npz")).sha256
    else:
        result["data"]["name"] = f"../{folder.name}/data.npz"
    save(folder / "result.json", result)
    page = Reader(report(folder))
    assert not page.all("img")
    assert re.search(f"There are no pictures here: [^<]*{reason}", page.text)


def test_a_data_set_that_is_not_here_is_not_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.datasets._download", lambda *_: pytest.fail("a report must not download"))
    monkeypatch.setenv("ADCERT_CACHE", str(folder))
    monkeypatch.delenv("ADCERT_DATA", raising=False)
    data = {"name": "cifar10", "split": "test", "start": 0, "count": 6, "sha256": "0" * 64}
    save(folder / "result.json", changed(folder, data=data))
    page = Reader(report(folder))
    assert "There are no pictures here: cifar10 is not on this machine." in page.text
    assert "airplane" in page.text


HOSTILE = """</title></script><script>alert(1)</script>"><img src=x onerror='alert(1)'>&lt;\u202e\ud800\x00"""


def test_nothing_in_a_file_becomes_markup(folder: Path) -> None:
    harmless = Reader(report(folder))
    weights = {"w": np.zeros((16, 2), np.float32)}
    metadata = {"adcert.recipe": HOSTILE.encode("utf8", "replace").decode(), "<b>": "<i>"}
    file = model([node("Gemm", ["x", "w"], "y")], ["n", 16], weights, metadata=metadata)
    (folder / "tiny.onnx").write_bytes(file)
    from verify.model import onnx_file

    hostile = changed(folder, contract=HOSTILE, method=HOSTILE, norm=HOSTILE, versions={HOSTILE: HOSTILE})
    hostile["model"] = {"path": HOSTILE + "/tiny.onnx", "sha256": onnx_file.read(folder / "tiny.onnx").sha256}
    hostile["data"]["split"] = HOSTILE
    for entry in hostile["samples"]:
        entry.update(status=entry["status"] if entry["status"] != "timeout" else HOSTILE, decided_by=HOSTILE)
    (folder / "result.json").rename(folder / "a'\"><script>alert(1)<script>.json")
    save(folder / "a'\"><script>alert(1)<script>.json", hostile)
    page = Reader(report(folder, "a'\"><script>alert(1)<script>.json"))
    assert len(page.all("script")) == len(page.all("style")) == len(page.all("title")) == 1
    assert len(page.all("img")) == len(harmless.all("img"))
    assert {key for _, own in page.elements for key in own} == {key for _, own in harmless.elements for key in own}
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements} | {"pre"}
    assert "\u202e" not in page.text
    assert "<script>alert(1)</script>" in page.text


def test_the_page_refers_to_nothing_outside_it(folder: Path) -> None:
    text = report(folder)
    page = Reader(text)
    for _, own in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert (own.get(key) or "#").startswith(("data:image/png;", "data:application/gzip;", "#"))
        assert not any(key.startswith("on") or key == "style" for key in own)
    assert re.findall(r"url\(([^)]*)\)", text) == [
        "#pattern-undecided",
        "#pattern-counterexample",
        "#pattern-misclassified",
    ]
    assert "@import" not in text
    assert "//" not in re.sub(r'"data:[^"]*"', "", text)
    ids = [own["id"] for _, own in page.elements if "id" in own]
    assert len(set(ids)) == len(ids)
    assert {own["href"] for own in page.all("a") if (own["href"] or "").startswith("#")} <= {f"#{id}" for id in ids}
    assert all(own.get("alt") for own in page.all("img"))
    assert all(own.get("aria-label") or own.get("aria-hidden") for own in page.all("svg"))


def test_the_result_is_inside_byte_by_byte(folder: Path) -> None:
    (link,) = Reader(report(folder)).all("a", download="result.json.gz")
    packed = base64.b64decode((link["href"] or "").split(",", 1)[1])
    assert gzip.decompress(packed) == (folder / "result.json").read_bytes()


def test_the_same_results_make_the_same_page(folder: Path) -> None:
    assert report(folder) == report(folder)


def test_several_results_stand_side_by_side(folder: Path) -> None:
    other = changed(folder, eps=0.5, eps_exact="1/2", contract="real")
    third = changed(folder, eps=4 / 255, eps_exact="4/255")
    save(folder / "real.json", other)
    save(folder / "wide.json", third)
    page = Reader(report(folder, "result.json", "wide.json", "real.json"))
    text = page.text
    assert "3 robustness results compared" in text
    assert "In common: tiny.onnx, data.npz, crown." in text
    row = "6 83.33 % 66.67 % 33.33 % 2 1.50 s"
    assert f"ε = 2/255, float32-any-order {row}" in text
    assert f"ε = 0.5, real {row}" in text
    assert len(page.all("article")) == 3
    (chart,) = [own for own in page.all("svg") if (own.get("aria-label") or "").startswith("Accuracy against eps")]
    assert chart["aria-label"] == "Accuracy against eps: clean, attacked, certified, crown"  # of one contract only
    assert "over the real numbers" in text
    assert page.all("a", href="#result-3")


def test_accuracy_against_eps_stands_in_one_result_that_has_a_curve(folder: Path) -> None:
    point = {"clean_accuracy": 500 / 6, "attacked_accuracy": None, "undecided": 1, "time_s": 0.5}
    curve = [{**point, "eps": 0.1, "certified_accuracy": 0.0}]
    curve += [{**point, "eps": 1 / 255, "eps_exact": "1/255", "certified_accuracy": 50.0}]
    save(folder / "result.json", changed(folder, curve=curve))
    page = Reader(report(folder))
    assert "Accuracy against ε" in page.text
    assert "ε = 1/255 crown 83.33 % not tried 50.00 % 1 500 ms" in page.text
    assert "ε = 2/255 crown 83.33 % 66.67 % 33.33 % 2 1.50 s" in page.text
    assert "ε = 0.1 crown 83.33 % not tried 0.00 % 1 500 ms" in page.text
    chart = 'aria-label="Accuracy against eps: clean, attacked, certified, crown"'
    text = (folder / "report.html").read_text()
    assert chart in text
    assert text.count('class="marker certified"') == 3 + 1  # and the legend
    high = [{**point, "eps": 0.001, "certified_accuracy": 82.0}]
    save(folder / "high.json", changed(folder, curve=high, summary={}, samples=[sample(0, 0, 0, "verified")]))
    assert "The axis begins at 80 %." in Reader(report(folder, "high.json")).text


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=st.lists(st.none() | st.floats(-1e100, 1e100), max_size=12), eps=st.floats(0, 1e100))
def test_margins_and_eps_of_any_size_can_be_drawn(folder: Path, bounds: list[float | None], eps: float) -> None:
    samples = [sample(i, 0, 0, "verified" if (b or 0) > 0 else "unknown", margin_lower=b) for i, b in enumerate(bounds)]
    files = [changed(folder, samples=samples, summary={}, eps=radius) for radius in (eps, 0.1)]
    for file in files:
        del file["eps_exact"]
    results = [read_result("result.json", json.dumps(file).encode()) for file in files]
    text = page_about(results, [None, None], [Pictures(), Pictures()])
    bars = [own for own in Reader(text).all("rect") if "fill" in (own["class"] or "") and own["height"] != "26"]
    assert len(bars) <= 2 * 200
    for own in bars:
        assert all(0 <= float(own[key] or "nan") <= 400 for key in ("x", "y", "width", "height"))
    assert ("Histogram" in text) == any(bound is not None for bound in bounds)


def test_an_unfinished_run_is_called_so(folder: Path) -> None:
    result = changed(folder, samples=[], summary={})
    save(folder / "result.json", result)
    assert "No sample has a verdict" in Reader(report(folder)).text
    result["samples"] = changed(folder)["samples"]
    save(folder / "result.json", {**changed(folder), "samples": [sample(0, 0, 0, "verified")], "summary": {}})
    assert "Unfinished: 1 of 6 samples have a verdict." in Reader(report(folder)).text


def test_an_attack_proves_nothing_and_the_page_says_so(folder: Path) -> None:
    samples = [sample(0, 0, 0, "unknown"), sample(1, 1, 1, "counterexample")]
    summary = {"clean_accuracy": 100, "attacked_accuracy": 50, "certified_accuracy": 0, "undecided": 1}
    save(folder / "result.json", changed(folder, method="attack", samples=samples, summary=summary))
    text = Reader(report(folder)).text
    assert "50.00 % withstand attack at ε = 2/255" in text
    assert "Certified not tried" in text
    assert "it is proved" not in text


def test_many_classes_and_many_samples_stay_readable(folder: Path) -> None:
    samples = [sample(i, i % 50, (i + i % 2) % 50, "verified" if i % 2 == 0 else "misclassified") for i in range(5000)]
    save(folder / "result.json", changed(folder, samples=samples, summary={}))
    page = Reader(report(folder))
    assert "Shown are the 20 of 50 classes" in page.text
    assert "The most frequent mistakes, 20 of 25 kinds" in page.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not complete, valid JSON"),
        (b'{"schema_version": 1, "samples": [', "not complete, valid JSON"),
        (b"\xff\xfe\x00", "not complete, valid JSON"),
        (b"[" * 100_000, "not complete, valid JSON"),
        (b'{"eps": NaN}', "NaN, which is not JSON"),
        (b"[]", "no object"),
        (b'{"schema_version": 2}', "schema_version is 2"),
        (b'{"some": "json"}', "schema_version is null"),
        (b'{"schema_version": 1, "property": {}, "verdict": "unsat"}', "a single property"),
        (b'{"schema_version": 1}', "is missing"),
    ],
)
def test_other_files_are_refused_in_a_sentence(content: bytes, reason: str) -> None:
    with pytest.raises(ReportProblem, match=re.escape(reason)) as problem:
        read_result("some.json", content)
    assert str(problem.value).startswith("some.json is not a result file")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["model"], None),
        (["model", "sha256"], 5),
        (["eps"], "0.1"),
        (["eps"], True),
        (["eps"], -1),
        (["eps"], 10**400),
        (["eps_exact"], "1/0"),
        (["eps_exact"], "x"),
        (["eps_exact"], "1/10"),
        (["eps_exact"], "1e999999999"),
        (["input_range"], [1, 0]),
        (["input_range"], 3),
        (["data"], []),
        (["samples"], {}),
        (["samples", 0], 3),
        (["samples", 0, "index"], 1),
        (["samples", 0, "label"], 1.5),
        (["samples", 0, "prediction"], True),
        (["samples", 0, "status"], 7),
        (["samples", 0, "margin_lower"], "big"),
        (["curve"], {}),
        (["curve"], [3]),
        (["curve"], [{"eps": 0.1}]),
        (["curve"], [{"eps": 0.1, "clean_accuracy": 101, "certified_accuracy": 5, "undecided": 0}]),
        (["curve"], [{"eps": -1, "clean_accuracy": 10, "certified_accuracy": 5, "undecided": 0}]),
        (["summary"], 3),
        (["summary", "certified_accuracy"], 99.9),
        (["summary", "clean_accuracy"], None),
        (["summary", "attacked_accuracy"], "all"),
    ],
)
def test_a_result_that_contradicts_its_format_or_itself_is_refused(folder: Path, path: list[Any], value: Any) -> None:
    result = changed(folder)
    part: Any = result
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ReportProblem, match="is not a result file that a report can be made of"):
        read_result("result.json", json.dumps(result).encode())


def test_truncation_anywhere_is_refused(folder: Path) -> None:
    content = (folder / "result.json").read_bytes()
    for end in range(0, len(content), 7):
        with pytest.raises(ReportProblem):
            read_result("result.json", content[:end])


def test_percentages_say_all_and_none_only_of_all_and_none() -> None:
    shown = [percent(*pair) for pair in [(0, 10**6), (1, 10**6), (10**6 - 1, 10**6), (10**6, 10**6), (0, 0)]]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in shown] == [
        "0.00 %",
        "0.01 %",
        "99.99 %",
        "100.00 %",
        "–",
    ]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_stands_out_from_its_ground_by_light_and_in_the_dark() -> None:
    light, dark = STYLE.split("prefers-color-scheme: dark", 1)
    for part in (light, dark.split("* { box-sizing", 1)[0]):
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part))
        for ground in ("paper", "raised"):
            for name in ("ink", "quiet", "certified", "undecided", "counterexample", "misclassified"):
                darker, lighter = sorted([luminance(colours[name]), luminance(colours[ground])])
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, ground)


def test_the_command_needs_neither_torch_nor_onnxruntime(folder: Path) -> None:
    program = (
        "import sys, cli\n"
        f"sys.argv = ['adcert', 'report', {str(folder / 'result.json')!r}, '--out', {str(folder / 'page.html')!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "assert not {'torch', 'onnxruntime', 'adcert', 'pooch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert len(Reader((folder / "page.html").read_text()).all("img")) == 8


def test_the_command_refuses_in_one_sentence_with_exit_code_2(folder: Path) -> None:
    for name, content in (("broken.json", "{"), ("absent.json", None)):
        if content is not None:
            (folder / name).write_text(content)
        done = subprocess.run(
            [sys.executable, "cli.py", "report", folder / "result.json", folder / name, "--out", folder / "page.html"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
        assert not (folder / "page.html").exists()


def test_verify_writes_a_report_of_what_it_found(tmp_path: Path) -> None:
    shipped = ROOT / "exported" / "mnist-0.1-small.onnx"
    files = "--json", "r.json", "--report", "r.html"
    command = [sys.executable, ROOT / "cli.py", "verify", shipped, "--count", "20", *files]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    page = Reader((tmp_path / "r.html").read_text())
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert f"{summary['certified_accuracy']:.2f} % certified at" in page.text
    assert len(page.all("img")) == 20
    assert "What the file says of itself" in page.text
    (link,) = page.all("a", download="r.json.gz")
    packed = base64.b64decode((link["href"] or "").split(",", 1)[1])
    assert gzip.decompress(packed) == (tmp_path / "r.json").read_bytes()
