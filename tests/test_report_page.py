"""The page of eval.report in a real, headless Chromium, opened from its file, without a network.

Needs Debian's package chromium (installed where that is possible) or another Chrome.
"""

import json
import random
import time
from pathlib import Path

import pytest
from browser import find_chromium, open_browser
from debian_packages import install
from report_runs import CELLS, ByteTokenizer, ids_of, make_run

from core.config import load
from eval import report
from eval.report import ReportConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> str:
    """Its path."""
    if find_chromium() is None:
        install(["chromium"])
    return find_chromium()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(chromium, folder):
    with open_browser(chromium, folder) as page:
        yield page


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(report, "tokenizer_of", lambda named, settings: ByteTokenizer())


def made(name: str, *args: str, **options):
    """The address of a report on a run made for it."""
    path = report.main(
        load(ReportConfig, [f"run={make_run(name, **options)}", f"name={name}", "num_resamples=100", *args])
    )
    return (path / "report.html").resolve()


def opened(page, file):
    page.errors.clear()
    page.requests.clear()
    page.open(f"file://{file}")
    return page


def run_of(file):
    (run,) = json.loads((file.parent / "run.json").read_text())["headline"]["runs"]
    return Path(run).name


@pytest.fixture(scope="module")
def plain(folder):
    """A report on 120 questions in four cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(report, "tokenizer_of", lambda named, settings: ByteTokenizer())
        return made("plain", num_questions=120, num_chars=300)


def test_loads_from_its_file_alone(page, plain):
    opened(page, plain)
    assert page.js("document.querySelectorAll('#table tbody tr').length") == 50
    assert page.js("document.querySelectorAll('#cells tbody tr').length") == len(CELLS)
    assert page.js("document.querySelectorAll('#chart canvas').length") == 1
    assert page.requests == [f"file://{plain}"] and page.errors == []


def test_sorting_filtering_and_paging(page, plain):
    opened(page, plain)
    page.js("document.querySelector('[data-sort=share]').click()")
    assert page.js("view.rows[0].share") == 1 and page.js("view.rows.at(-1).share") == 0
    page.js("document.querySelector('[data-sort=share]').click()")
    assert page.js("view.rows[0].share") == 0
    assert page.js("document.querySelector('th[aria-sort]').textContent").startswith("Right")
    page.js("byId('next').click()")
    assert page.js("byId('page').textContent") == "page 2 of 3"
    page.press("/")
    for key in "77 + 7":
        page.press(key)
    page.until("view.rows.length === 1")
    assert "77 + 77" in page.js("document.querySelector('#table tbody td').textContent")
    page.js("document.querySelector('#filters [type=reset]').click()")
    page.until("view.rows.length === 120")
    page.js("byId('verdict').value = 'wrong'; byId('filters').dispatchEvent(new Event('input'))")
    num_wrong = page.js("view.rows.length")
    assert 0 < num_wrong < 120
    assert page.js("view.rows.every((row) => row.right === 0)")
    assert page.errors == []


def test_flips_lead_to_their_questions(page, plain):
    opened(page, plain)
    shown = int(page.js("document.querySelector('#waits button').textContent"))
    page.js("document.querySelector('#waits button').click()")
    assert page.js("view.rows.length") == shown == page.js("data.waits[0].to_right.length")
    assert "Wait \u00d71: wrong \u2192 right" in page.js("document.querySelector('#table tbody .flip').textContent")
    after = page.js("data.cells[data.waits[0].a].cell")
    for click in ("document.querySelector('#table tbody tr')", "document.querySelector('#table tbody .flip')"):
        page.js(f"{click}.click()")
        page.until("document.querySelector('#trace .tokens .forced')")
        assert page.js("data.cells[samples.cell[opened.sample]].cell") == after, "what it thought after the flip"
        assert "wrong \u2192 right" in page.js("document.querySelector('#list [aria-current]').textContent")
        page.press("Escape")
        page.until("!byId('viewer').open")
    assert page.errors == []


def test_every_part_is_reached_by_the_keyboard(page, plain):
    opened(page, plain)
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached.add(page.js("document.activeElement.closest('[id]')?.id"))
        outline = page.js("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"one sees where one is: {page.js('document.activeElement.outerHTML.slice(0, 200)')}"
    assert {"theme", "legend", "waits", "search", "cell", "verdict", "domain", "flip", "table"} <= reached
    page.js("document.querySelector('#legend input').focus()")
    page.press("Enter")
    page.js("document.querySelector('#table tbody tr').focus()")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.press("ArrowUp")
    assert page.js("document.activeElement.dataset.question") == "1"
    page.press("Enter")
    page.until("byId('viewer').open && document.querySelector('#trace .tokens')")
    page.js("document.querySelector('#list [aria-current]').focus()")
    page.press("ArrowUp")
    assert page.js("data.cells[samples.cell[opened.sample]].cell") == "max=256 ignore=1"
    assert page.js("document.activeElement.dataset.sample === String(opened.sample)")
    assert page.requests == [f"file://{plain}"] and page.errors == []


def test_a_trace_tells_sampled_from_forced_and_gives_the_grades_reason(page, plain):
    opened(page, plain)
    page.press("j")
    page.press("Enter")
    page.until("byId('viewer').open && document.querySelector('#trace .tokens')")
    assert page.js("[...document.querySelectorAll('#trace .tokens .forced')].map((e) => e.textContent)") == [
        "Wait", "Wait", "\nFinal Answer:",
    ]  # fmt: skip
    sampled = page.js("[...document.querySelectorAll('#trace .tokens .sampled')].map((e) => e.textContent)")
    thinking = json.loads(next(open(plain.parents[2] / "eval" / run_of(plain) / "samples.jsonl")))["segments"][0]
    assert sampled[0] == bytes(thinking["token_ids"]).decode() and len(sampled) == 4
    assert "reference \u201c0\u201d. Graded by rules-2." in page.js("document.querySelector('.verdict').textContent")
    page.press("n")
    assert page.js("document.activeElement.className") == "forced"
    page.press("h")
    page.until("document.querySelectorAll('#trace .tokens .forced').length === 2")
    page.press("j")
    page.until("document.querySelector('#trace .prose').textContent === 'What is 1 + 1?'")
    address = page.js("location.href")
    page.press("Escape")
    page.until("!byId('viewer').open")
    page.until("document.activeElement.dataset.question === '1'")  # set on `close`, which comes after it is shut
    page.open("about:blank")  # an address that differs in its fragment alone loads nothing
    opened(page, address.removeprefix("file://"))
    page.until("document.querySelector('#trace .prose')?.textContent === 'What is 1 + 1?'")
    assert page.errors == []


def test_three_examples_are_a_click_away(page):
    def change(row):  # questions that are right think longer, each by another length
        return {
            **row,
            "num_thinking_tokens": 100 + int(row["question_id"], 16),
            "correct": int(row["question_id"], 16) < 9,
        }

    opened(page, made("examples", num_questions=12, cells=CELLS[:1], change=change))
    links = "[...document.querySelectorAll('#examples a')]"
    assert page.js(f"{links}.map((a) => a.textContent)") == ["100 tokens", "104 tokens", "108 tokens"]
    page.js(f"{links}[1].click()")
    page.until("document.querySelector('#trace .prose')?.textContent === 'What is 4 + 4?'")
    page.press("Escape")
    page.until("!byId('viewer').open")
    opened(page, made("none-right", num_questions=2, change=lambda row: {**row, "correct": False}))
    assert page.js("byId('examples').hidden") and page.errors == []


def test_a_curve_goes_off_and_on(page, plain):
    opened(page, plain)
    page.js("document.querySelector('#legend input').click()")
    assert "switched off" in page.js("byId('chart').textContent")
    page.js("document.querySelector('#legend input').click()")
    assert page.js("chart.series.length") == 2
    x, y = page.js("""(() => {
        byId("chart").scrollIntoView();
        const over = chart.over.getBoundingClientRect(), point = ownCurves()[0].points[0];
        return [over.left + chart.valToPos(point.x, "x"), over.top + chart.valToPos(point.accuracy, "y")];
    })()""")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 3, y=y + 3)
    page.until("byId('point').textContent.startsWith('budget forcing, max=64: ')")
    page.js("document.querySelector('#axis [value=sampled]').click()")
    assert page.js("ownCurves()[0].axis") == "sampled" and page.errors == []


def test_light_and_dark(page, plain):
    colours = {}
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        opened(page, plain)
        colours[scheme] = page.js("getComputedStyle(document.body).backgroundColor")
    assert colours["light"] != colours["dark"]
    page.js("byId('theme').click()")
    assert page.js("getComputedStyle(document.body).backgroundColor") == colours["light"], "the switch goes first"
    assert page.errors == []


def test_what_a_model_wrote_is_text(page):
    hostile = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\0\u202e<b>"
    line = "x" * 1_000_000

    def change(row):
        thinking = {"phase": "thinking", "source": "sampled", "token_ids": ids_of(hostile + line)}
        return {**row, "segments": [thinking, *row["segments"][-2:]], "extracted": hostile, "domain": hostile}

    opened(page, made("hostile", num_questions=2, cells=CELLS[:1], change=change, text=lambda i: hostile + str(i)))
    page.js("openQuestion(0)")
    page.until("document.querySelector('#trace .tokens .sampled')")
    text = page.js("document.querySelector('#trace .tokens .sampled').textContent")
    assert text.startswith("</script><script>window.hit = 1</script><img") and "\u2400<U+202E><b>xxx" in text
    assert len(text) < 110_000 and "characters left" in text
    for _ in range(10):
        page.js("document.querySelector('#trace .more').click()")
    assert page.js("document.querySelector('#trace .tokens .sampled').textContent").count("x") >= len(line)
    assert page.js("document.querySelector('#trace .more')") is None
    seen = page.js(r"visible('a\ud800 \u001b[31m \u202e \u{e0041} \u{1f9ea} \u200d\tb')")
    assert seen == "a<U+D800> \u241b[31m <U+202E> <U+E0041> \U0001f9ea \u200d\tb"
    assert page.js("window.hit ?? 0") == 0 and page.js("document.querySelectorAll('img').length") == 0
    assert page.errors == []


def test_ten_thousand_samples_stay_fast_and_small(page):
    def change(row):  # 2,000 characters, unlike each other, as far as words are
        rng = random.Random(f"{row['cell']} {row['question_id']}")
        words = " ".join(rng.choice(WORDS) for _ in range(320))
        return {**row, "segments": [], "thinking": words[:2000], "num_forced_tokens": 0}

    file = made("many", num_questions=2500, change=change)
    size = file.stat().st_size
    started = time.monotonic()
    opened(page, file)
    loaded = time.monotonic() - started
    assert page.js("samples.cell.length") == 10_000
    paint = page.until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime") / 1000
    page.js("document.querySelector('[data-sort=thinking]').click()")
    page.js("openQuestion(2400)")
    page.until("document.querySelector('#trace .sampled')")
    sort = page.js("(() => { const t = performance.now(); sortBy('share'); return performance.now() - t; })()") / 1000
    print(f"first paint {paint:.2f} s, loaded {loaded:.2f} s, sorted {sort:.2f} s, {size / 1e6:.1f} MB")
    assert paint < 3 and size < 30e6 and sort < 1
    assert page.js("data.notes.length") == 0 and page.errors == []


LETTERS = "abcdefghilmnoprstu"
WORDS = [a + b + c * 2 for a in LETTERS for b in LETTERS for c in LETTERS[:2]]
