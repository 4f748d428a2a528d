"""The page in a browser: keyboard, screen readers, dark mode, print, and 10,000 queries."""

import json
import re
import shutil
import time

import pytest

from mnrl_job.report.comparison_report import RunPair, comparison_page, pair_metrics
from tests.report.run_outputs import make_run_outputs

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """URIs of pages: of a training run, one with two eval sets, and an evaluation."""
    uris = {}
    for name, options in {"one": {}, "two": {"names": ("faq", "manuals")}, "evaluate": {"trained": False}}.items():
        folder = tmp_path_factory.mktemp(name)
        path = folder / "report.html"
        path.write_text(make_run_outputs(folder, queries=60, **options).page(), encoding="utf-8")
        uris[name] = path.as_uri()
    uris["compared"] = (folder / "comparison.html").as_uri()
    (folder / "comparison.html").write_text(comparison_of(make_run_outputs(folder / "c", queries=60)), encoding="utf-8")
    return uris


def comparison_of(run):
    """The page of three runs, with the results before and after the training of one."""
    rankings = [json.loads(line) for line in (run.staging / "rankings" / "faq.jsonl").read_text().splitlines()]
    metrics = pair_metrics(
        run.metrics, {name: facts | {"bm25": None} for name, facts in run.metrics["evaluation"].items()}
    )
    return comparison_page([RunPair(("s3://runs/a", f"s3://runs/{name}"), {"faq": rankings}, metrics) for name in "bc"])


@pytest.fixture
def opened(browser, pages):
    """Open a page; any console message, error or network request fails the test."""
    contexts, problems = [], []

    def open_page(name="one", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if request.url != pages.get(name, name) else 0)
        page.goto(pages.get(name, name))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [problem for problem in problems if not problem.startswith("data:")]


def rows(page):
    return page.locator("#explorer tbody tr")


def column(page, number):
    return page.locator(f"#explorer tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("one", "dark"),
        ("two", "light"),
        ("compared", "light"),
        *(
            pytest.param(*page, marks=pytest.mark.slow)
            for page in [("one", "light"), ("evaluate", "dark"), ("compared", "dark")]
        ),
    ],
)
def test_axe_finds_no_violations_with_all_details_open(opened, name, scheme):
    page = opened(name, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.Axe().run(page).response
    assert not found["violations"], json.dumps(found["violations"], indent=1)[:4000]
    assert len(found["passes"]) > 20


def test_markup_in_texts_is_shown_and_not_run(opened):
    page = opened()
    page.locator("#find").fill("window.stolen")
    assert rows(page).count() >= 3
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    texts = rows(page).all_inner_texts()
    assert all("<script>window.stolen = 1</script>" in text for text in texts), texts
    assert page.evaluate("window.stolen") is None
    assert page.locator("img").count() == 0


def test_the_content_security_policy_blocks_other_scripts(browser, pages):
    page = browser.new_page()
    page.goto(pages["one"])
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'stolen = 1'}))")
    assert page.evaluate("typeof stolen") == "undefined"
    page.close()


def test_the_page_can_be_used_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"

    change = page.locator("th[data-key=change]")
    assert change.get_attribute("aria-sort") == "descending"
    assert column(page, 2)[0] == "+0.667"
    change.locator("button").focus()
    page.keyboard.press("Enter")
    assert change.get_attribute("aria-sort") == "ascending"
    assert column(page, 2)[0] == "−0.699"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert change.get_attribute("aria-sort") is None
    assert page.locator("th[data-key=rankBefore]").get_attribute("aria-sort") == "ascending"
    assert column(page, 3)[:9] == ["1"] * 9

    page.locator("input[value=all]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("input[value=lost]").is_checked()
    lost = int(page.locator("[data-count=lost]").inner_text())
    assert page.locator("#status").inner_text() == f"Queries 1–{lost} of {lost} (of 60 in all), by rank before, rising"
    assert {text[0] for text in column(page, 2)} == {"−"}
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")

    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert page.locator("#status").inner_text() == "Queries 26–50 of 60, by rank before, rising"
    page.locator("#find").focus()
    page.keyboard.type("QUERY 17 ")
    assert rows(page).count() == 1
    page.locator("#explorer summary").focus()
    page.keyboard.press("Enter")
    assert "document 17 says" in rows(page).first.inner_text()
    page.locator("#find").fill("nothing at all")
    assert page.locator("#status").inner_text() == "No query is like that."


def test_focus_is_visible(opened):
    page = opened()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_one_of_several_eval_sets_can_be_selected(opened):
    page = opened("two")
    page.locator("#set").select_option(label="manuals")
    assert page.locator("#status").inner_text() == "Queries 1–25 of 60, by change, falling"
    assert page.locator("[data-count=all]").inner_text() == "60"
    assert opened("one").locator("#set").is_hidden()


def test_without_training_the_worst_queries_come_first(opened):
    page = opened("evaluate")
    assert page.locator("th[data-key=before]").get_attribute("aria-sort") == "ascending"
    assert column(page, 2)[0] == "7"


def test_without_javascript_only_the_table_of_all_queries_is_missing(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#explorer").is_hidden()
    assert page.locator(".changes li").first.is_visible()
    assert page.locator("svg[role=img]").count() == 12
    assert page.get_by_text("rankings/ next to this page has the same data").is_visible()
    assert opened().get_by_text("rankings/ next to this page has the same data").is_hidden()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("name", ["one", "compared"])
def test_nothing_overflows_the_page(opened, name, width):
    page = opened(name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_settings_keep_their_width_on_a_phone(opened):
    page = opened(viewport={"width": 320, "height": 800})
    widths = page.locator(".settings tbody tr:first-child td").evaluate_all("all => all.map((one) => one.clientWidth)")
    assert min(width for width in widths if width) > 200


def test_a_chart_shows_its_values_under_the_pointer_and_by_keyboard(opened):
    page = opened()
    figure = page.locator("figure", has_text="Learning rate").first
    figure.locator("svg").hover(position={"x": 60, "y": 40})
    assert re.match(r"step \d+: learning rate 0\.\d+$", figure.locator(".reading").inner_text())
    slider = figure.locator("input")
    slider.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 59: learning rate 1.85e−5"
    assert figure.locator(".reading").inner_text() == "step 59: learning rate 1.85e−5"


def test_the_code_that_uses_the_model_can_be_copied(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.locator(".copyable + button").click()
    assert page.locator(".copyable + button").inner_text() == "Copied"
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".copyable").inner_text()


def test_the_printed_page_is_black_on_white_without_controls(opened):
    page = opened(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 21)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    for hidden in ("nav", ".controls", ".pages"):
        assert page.locator(hidden).first.is_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_ten_thousand_queries_open_in_under_two_seconds(opened, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(make_run_outputs(tmp_path, queries=10_000).page(), encoding="utf-8")
    opening, searching = [], []
    for _ in range(4):  # the best of these: other tests may run beside
        began = time.perf_counter()
        page = opened(path.as_uri())
        assert page.locator("#status").inner_text() == "Queries 1–25 of 10,000, by change, falling"
        opening.append(time.perf_counter() - began)
        began = time.perf_counter()
        page.locator("#find").fill("topic 42")
        assert page.locator("#status").inner_text() == "Queries 1–25 of 103 (of 10,000 in all), by change, falling"
        searching.append(time.perf_counter() - began)
    assert min(opening) < 2
    assert min(searching) < 1
