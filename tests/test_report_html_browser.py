# SPDX-License-Identifier: GPL-2.0-only
"""The pages as a browser shows them: wide and narrow, light and dark, nothing foreign loaded."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.history import record, runs
from harness.history.store import History
from harness.report.html import site
from harness.report.outcome import Outcome, Result
from tests.browser import Browser
from tests.history_runs import HOSTILE, result, write
from tests.marks import real

pytestmark = real("looks at pages in a browser", 600)

SIZES = {"desktop": (1280, 900), "phone": (390, 844), "narrow": (320, 640)}
PAGES = (
    "index",
    "tests-1",
    "by-host-1",
    "run-12",
    "run-12-results-1",
    "run-12-failures-1",
    "run-13",
    "run-13-failures-1",
    "run-14",
)
LONG = "suites/launch/test_" + "a_name_without_any_place_to_break_it" * 3
SHOTS = "SNPTEST_SCREENSHOTS"
"""Names a folder where pictures are kept."""


def night(number: int) -> list[Result]:
    """Make the results of a night: some break, some flake, one dies."""
    results = []
    for suite, count in (("launch", 24), ("psc", 30), ("gmem", 12), ("guest_req", 9)):
        for each in range(count):
            outcome = Outcome.PASS
            if suite == "gmem" and each % 5 == 0:
                outcome = Outcome.SKIP
            if suite == "psc" and each == 3 and number % 3 == 1:
                outcome = Outcome.FAIL
            if suite == "launch" and each in (4, 5) and number >= 10:
                outcome = Outcome.CRASH if each == 4 else Outcome.FAIL
            if suite == "guest_req" and each == 2:
                outcome = Outcome.XFAIL
            texts = (
                {
                    "details": "assert errno == 0\n  " + "x" * 200,
                    "console": f"[ 12.345] kvm_amd: {HOSTILE}\n" * 30,
                }
                if outcome.bad
                else {}
            )
            areas = ("page state change", "integrity") if suite == "psc" else (suite,)
            seconds = 0.05 * each + 0.01 * number
            name = f"holds_{each}_in_{suite}"
            made = result(name, outcome, seconds, suite, patches=(each + 1,), areas=areas, **texts)
            results.append(made)
    return results


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of 14 runs: eleven nights of two kernels, a hostile one, one cut, one empty."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(12):
        tree = number // 3
        kernel = {"release": f"6.{12 + number // 6}.{tree}-snptest", "tree": str(tree)}
        host = ("milan1", "genoa-with-a-long-name.lab.example.org")[number % 4 == 3]
        write(folder / f"r{number}", night(number), number, built=kernel, host=host)
    evil = [
        result(HOSTILE * 3, "fail", reason=HOSTILE * 20, details=HOSTILE, description=HOSTILE * 9),
        result(id=f"{LONG}.py::test_{'x' * 300}[v12]", suite="launch", outcome="fail"),
    ]
    write(folder / "r12", evil, 12, label=HOSTILE * 5, host="h" * 120, command=["x" * 400])
    write(folder / "r13", [], 13, ended=False)
    with History.open(folder / "h.db") as history:
        for number in range(14):
            record.take(history, folder / f"r{number}")
        site.write(history, runs.runs(history), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.1) of 'rgb(r, g, b)'."""
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    parts = [float(each) / 255 for each in numbers]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# What of the page is wider than the window, unless it scrolls within its own frame.
WIDER = """
[...document.querySelectorAll("body *")].filter(element => {
  if (element.closest(".scroll") || element.closest("svg")) return false;
  return element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
}).map(element => element.tagName + "." + element.className).slice(0, 5)
"""
# Contrast of each text with what is behind it, the least first.
CONTRASTS = """
(() => {
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest("svg, script, style") || !element.offsetParent) continue;
    const key = getComputedStyle(element).color + "|" + behind(element);
    found[key] = found[key] || element.tagName + "." + element.className;
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_its_window_and_can_be_read(
    browser: Browser, pages: Path, tmp_path: Path, page: str, size: str, dark: bool
) -> None:
    width, height = SIZES[size]
    browser.show(pages / f"{page}.html", width, height, dark=dark)
    # All that can be opened is open: evidence is as wide as it gets.
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(WIDER) == []
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(back) < 0.1) is dark
    for pair, where in browser.evaluate(CONTRASTS).items():
        a, b = sorted(luminance(colour) for colour in pair.split("|"))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (where, pair)
    assert browser.problems() == []
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    folder = Path(os.environ.get(SHOTS, tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{page}-{size}-{'dark' if dark else 'light'}.png"
    longest = min(3000, int(browser.evaluate("document.documentElement.scrollHeight")))
    picture = browser.picture(folder / name, longest)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (width, longest)


def test_the_filter_hides_what_does_not_match(browser: Browser, pages: Path) -> None:
    browser.show(pages / "tests-1.html", 1280, 900, dark=False)
    shown = "document.querySelectorAll('[data-name]:not(.hidden)').length"
    assert browser.evaluate("document.querySelector('input').checkVisibility()")
    before = browser.evaluate(shown)
    script = """
    document.querySelectorAll("input").forEach(box => {
      box.value = "PSC holds_3_";
      box.dispatchEvent(new Event("input"));
    })
    """
    browser.evaluate(script)
    assert browser.evaluate(shown) == 1
    assert browser.evaluate("document.querySelectorAll('.group:not(.hidden)').length") == 1
    browser.evaluate(script.replace("PSC holds_3_", ""))
    assert browser.evaluate(shown) == before


def test_nothing_that_a_target_printed_runs(browser: Browser, pages: Path) -> None:
    """With scripts of others the policy would be no help: none are in the page to begin with."""
    browser.show(pages / "run-13.html", 1280, 900, dark=False)
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate(
        "[...document.querySelectorAll('*')].some(e => e.tagName == 'ALERT')"
    ) is (False)
    browser.evaluate(
        "document.body.appendChild(document.createElement('script')).textContent = 'window.x = 1'"
    )
    assert browser.evaluate("window.x === undefined")
    assert any("Content Security Policy" in each for each in browser.problems())
