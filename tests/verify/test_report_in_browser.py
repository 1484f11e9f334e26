"""Reports in a real browser: nothing overflows, is blocked, or cannot be reached by keyboard.

Needs Playwright for Python and a Chromium, its own or the system's.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.onnx_models import model, node
from verify.model import onnx_file
from verify.report import read_file, write_report
from verify.tasks.samples import read_data

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")

CONTRASTS = """() => {
  const luminance = ([r, g, b]) => {
    const linear = (v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parts(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, [r, g, b, a = 1]) =>
      [r, g, b].map((v, i) => v * a + under[i] * (1 - a)), [255, 255, 255]);
  };
  const poor = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, option")) continue;
    const [a, b] = [luminance(parts(getComputedStyle(element).color)), luminance(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push([texts.currentNode.data, contrast]);
  }
  return poor;
}"""

BEYOND = """() => [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
  && !element.closest(".scroll, pre, svg") && element.getBoundingClientRect().right > innerWidth + 0.5
).map((element) => element.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    system = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=system)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one.html and several.html, about pictures of ten classes, long names and every outcome."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 3, 8, 8), np.uint8), np.arange(60) % 10
    np.savez(folder / "data.npz", x=x, y=y)
    statuses = ["verified", "verified", "unknown", "counterexample", "misclassified"]
    samples = []
    for index, label in enumerate(map(int, y)):
        status = statuses[index % 5]
        entry = {"index": index, "label": label, "prediction": label, "status": status, "decided_by": None}
        entry |= {"margin_lower": float(rng.normal(3 if status == "verified" else -3)), "time_s": 0.01}
        if status == "misclassified":
            entry["prediction"] = (label + 1 + index % 3) % 10
        if status == "counterexample":
            entry["counterexample"] = np.clip(x[index] / 255 + 0.1, 0, 1).tolist()
        samples.append(entry)
    name = "a-rather-long-file-name-without-any-space" * 4 + ".onnx"
    metadata = {
        "adcert.dataset": "data.npz",
        "adcert.recipe": json.dumps({"objective": "ad-cert", "note": "long " * 60}),
    }
    weights = {"w": np.zeros((192, 10), np.float32)}
    (folder / name).write_bytes(model([node("Gemm", ["x", "w"], "y")], ["n", 192], weights, metadata=metadata))
    results = []
    for number, eps in enumerate((0.1, 0.25)):
        result = {
            "schema_version": 1,
            "model": {"path": name, "sha256": onnx_file.read(folder / name).sha256},
            "contract": "float32-any-order",
            "method": "complete",
            "norm": "linf",
            "eps": eps,
            "input_range": [0, 1],
            "data": {"name": "data.npz", "count": 60, "sha256": read_data(str(folder / "data.npz")).sha256},
            "summary": {"attacked_accuracy": 60.0},
            "samples": samples,
            "curve": [
                {"eps": 0.01, "clean_accuracy": 80, "attacked_accuracy": 70, "certified_accuracy": 60, "undecided": 1}
            ],
            "versions": {"adcert": "1"},
        }
        (folder / f"{number}.json").write_text(json.dumps(result))
        results.append(read_file(folder / f"{number}.json"))
    write_report(folder / "one.html", results[:1], folders=[folder])
    write_report(folder / "several.html", results, folders=[folder])
    return folder


@pytest.fixture
def show(browser: Any, folder: Path) -> Iterator[Any]:
    """Opens a page; in the end, nothing may have been requested, blocked, or gone wrong in it."""
    contexts, troubles, requests = [], [], []

    def opened(name: str, width: int = 1000, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / name).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not troubles
    assert all(url.startswith(("file:", "data:")) for url in requests)


@pytest.mark.parametrize("name", ["one.html", "several.html"])
def test_nothing_is_wider_than_the_screen(show: Any, name: str) -> None:
    page = show(name)
    page.evaluate("for (const card of document.querySelectorAll('details')) card.open = true")
    for width in (320, 360, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(BEYOND) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(show: Any, scheme: str) -> None:
    page = show("several.html", color_scheme=scheme)
    page.evaluate("for (const card of document.querySelectorAll('details')) card.open = true")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 21, 18)" if scheme == "dark" else "rgb(251, 250, 246)")
    assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one.html", "several.html"])
@pytest.mark.parametrize("width", [360, 1000])
def test_axe_finds_nothing_that_keeps_anybody_out(show: Any, name: str, scheme: str, width: int) -> None:
    """Labels, names, roles, order of headings, contrast: https://github.com/dequelabs/axe-core."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = show(name, width, color_scheme=scheme)
    page.evaluate("for (const card of [...document.querySelectorAll('details')].slice(0, 20)) card.open = true")
    found = axe.Axe().run(page)
    assert found.response["passes"]
    assert not found.violations_count, found.generate_report()


def test_links_lead_to_each_result_and_back_to_nothing_else(show: Any) -> None:
    page = show("several.html")
    links = page.locator("main > header a")
    assert links.count() == 2
    for number in (1, 2):
        links.nth(number - 1).click()
        assert page.evaluate("location.hash") == f"#result-{number}"
        top = page.evaluate(f"document.getElementById('result-{number}').getBoundingClientRect().top")
        assert abs(top) < 2


def test_pictures_can_be_filtered_and_opened_by_keyboard(show: Any) -> None:
    page = show("one.html")
    shown = page.locator(".card:visible")
    assert shown.count() == 60
    button = page.get_by_role("button", name="counterexample")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert shown.count() == 12
    assert page.locator("output").inner_text() == "12 shown"
    page.get_by_role("combobox").select_option("3")
    assert shown.count() == 6
    first = shown.first
    first.locator("summary").focus()
    page.keyboard.press("Space")
    assert first.locator(".perturbed img").count() == 2
    assert first.locator(".perturbed").is_visible()
    shown.nth(1).locator("summary").press("Enter")
    assert not first.locator(".perturbed").is_visible()
    page.get_by_role("button", name="all").click()
    page.get_by_role("combobox").select_option("")
    assert shown.count() == 60


def test_every_picture_can_be_decoded(show: Any) -> None:
    page = show("one.html")
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    assert (
        page.evaluate("Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))") == [8] * 84
    )


def test_all_but_the_filters_works_without_scripts(show: Any) -> None:
    page = show("one.html", java_script_enabled=False)
    assert not page.locator(".filters").is_visible()
    card = page.locator(".card").first
    assert not card.locator(".facts").is_visible()
    card.locator("summary").click()
    assert card.locator(".facts").is_visible()


def test_the_result_can_be_downloaded(show: Any, folder: Path, tmp_path: Path) -> None:
    page = show("one.html", accept_downloads=True)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "got.gz")
    assert download.value.suggested_filename == "0.json.gz"
    assert gzip.decompress((tmp_path / "got.gz").read_bytes()) == (folder / "0.json").read_bytes()


def test_paper_is_white_and_has_no_controls(show: Any) -> None:
    page = show("several.html", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("section > details > .facts").first.is_visible()  # what is folded away on a screen
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".filters:visible, .download:visible").count()
    assert page.evaluate(CONTRASTS) == []
