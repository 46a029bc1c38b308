# SPDX-License-Identifier: GPL-2.0-only
"""Reports of stored runs: HTML, JUnit, KTAP, KCIDB; what a target printed is text in all."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.history import record, runs, trend
from harness.history.store import History
from harness.history.trend import Day
from harness.report import kcidb, ktap
from harness.report.html import charts, site
from harness.report.outcome import Outcome
from tests.history_runs import HOSTILE, result, write

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """A page, read; wrong nesting is noticed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.stack):
            self.text += data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders of five runs: two kernels, a flaky test, hostile texts, a run that was cut."""
    plain = [result(str(number), suite="gmem") for number in range(30)]
    bad = result(
        "evil<b>",
        "fail",
        reason=HOSTILE,
        details=HOSTILE,
        console=f"[ 1.0] {HOSTILE}\n" * 3,
        description=HOSTILE,
        areas=(HOSTILE,),
    )
    b: dict[str, Any] = {"built": {"release": f"6.13 {HOSTILE}", "tree": "b"}}
    results = tmp_path / "results"
    write(results / "a0", [*plain, result("evil<b>"), result("shaky")], 0)
    twice = [result("shaky", "fail"), result("shaky")]
    write(results / "a1", [*plain, result("evil<b>"), *twice], 1)
    write(results / "b0", [*plain, bad, result("shaky")], 2, **b)
    write(results / "b1", [*plain, bad, result("dies", "crash", console="oops")], 3, **b)
    last = [bad, result("k", "xfail"), result("s", "skip")]
    write(results / "b2", last, 4, ended=False, label=HOSTILE, host=HOSTILE, **b)
    return results


@pytest.fixture
def history(tmp_path: Path, folder: Path) -> Iterator[History]:
    with History.open(tmp_path / "h.db") as opened:
        assert all(not done.problem for done in record.import_all(opened, [folder]))
        yield opened


def snptest(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    before, sys.argv = sys.argv, ["snptest", *words]
    try:
        code = main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_pages_are_well_formed_and_linked(history: History, tmp_path: Path) -> None:
    index = site.write(history, runs.runs(history), tmp_path / "out")
    pages = {path.name: Page(path) for path in index.parent.iterdir()}
    first = {"index.html", *(f"run-{number}.html" for number in range(1, 6))}
    assert {name for name in pages if re.fullmatch(r"index\.html|run-\d+\.html", name)} == first
    linked = set()
    for name, page in pages.items():
        links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
        assert len(links) > (4 if name == "index.html" else 0)
        places = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(set(places)) == len(places)
        for link in links:
            target, _, place = link.partition("#")
            assert not place or place in {a.get("id") for _, a in pages[target].tags}, link
            linked.add(target)
    assert linked | {"runs-1.html", "by-revision-1.html", "by-host-1.html"} == set(pages)


def test_pages_load_nothing_and_run_nothing_but_their_own(history: History, tmp_path: Path) -> None:
    site.write(history, runs.runs(history), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        page = Page(path)
        tags = [tag for tag, _ in page.tags]
        assert tags.count("script") == tags.count("style") == 1
        foreign = {"img", "link", "iframe", "object", "embed", "base", "form", "video"}
        assert not foreign & set(tags)
        for _, attrs in page.tags:
            assert not [name for name in attrs if name.startswith("on") or name == "style"]
            assert "src" not in attrs
        policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
        assert policy is not None
        assert re.fullmatch(
            r"default-src 'none'; style-src 'sha256-[\w+/=]+'; script-src 'sha256-[\w+/=]+'", policy
        )
        assert "http" not in page.source.replace("http-equiv", "")


def test_what_a_target_printed_is_text(history: History, tmp_path: Path) -> None:
    site.write(history, runs.runs(history), tmp_path / "out")
    for name in ("index.html", "run-4.html", "run-3.html"):
        page = Page(tmp_path / "out" / name)
        assert "<script>alert(1)</script>" in page.text
        assert "{{ 7*7 }}" in page.text
        assert "49" not in re.findall(r"& (\d+) ", page.text)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page.source)


def test_a_page_says_what_is_new_flaky_known_and_cut(history: History, tmp_path: Path) -> None:
    site.write(history, runs.runs(history), tmp_path / "out")
    text = {n: " ".join(Page(tmp_path / "out" / f"run-{n}.html").text.split()) for n in range(1, 6)}
    assert "nothing failed; no good run before it" in text[1]
    assert "1 flaky; last good: run 1" in text[2]
    assert "1 new failure" in text[3]
    assert "still failing 1" in text[4]
    assert "it was cut short" in text[5]
    assert "known issue 1" in text[5]
    assert "oops" in Page(tmp_path / "out" / "run-4-failures-1.html").text
    assert "6.12.1-snptest" in text[1]


def test_the_overview_shows_trends_flakes_and_both_matrices(
    history: History, tmp_path: Path
) -> None:
    index = site.write(history, runs.runs(history), tmp_path / "out")
    text = " ".join(Page(index).text.split())
    assert "5 runs stored" in text
    assert "By revision" in text
    assert "By host" in text
    row = text[text.index("test_psc.py::test_shaky[v12]") :]
    assert row.split("test_psc.py::")[1].startswith("test_shaky[v12] passed 3/4 flakes 25%")
    assert text.index("test_psc.py::test_evil<b>[v12]") < text.index("test_psc.py::test_shaky[v12]")


def test_no_question_reads_all_results(history: History, tmp_path: Path) -> None:
    """What it takes 10,000 runs to feel, the plans of the queries tell of five."""
    asked: list[str] = []
    history.db.set_trace_callback(asked.append)
    site.write(history, runs.runs(history), tmp_path / "out")
    trend.points(history, 1)
    record.take(history, write(tmp_path / "new", [result(), result("y", "fail")], 9))
    history.db.set_trace_callback(None)
    seen = 0
    for sql in set(asked):
        if sql.startswith(("SELECT", "INSERT INTO result", "UPDATE", "DELETE")):
            plan = [row[3] for row in history.all(f"EXPLAIN QUERY PLAN {sql}")]
            assert not [line for line in plan if re.match(r"SCAN (x|y|e|result|evidence)\b", line)]
            seen += any("result" in sql for line in plan)
    assert seen > 5


def test_an_empty_history_has_an_overview(tmp_path: Path) -> None:
    with History.open(tmp_path / "h.db") as empty:
        index = site.write(empty, [], tmp_path / "out")
    assert "0 runs stored" in Page(index).text


def test_charts_hold_what_they_are_given() -> None:
    assert str(charts.strip([])).count("<path") == 0
    drawn = str(charts.strip([Outcome.PASS] * 3 + [None] + [Outcome.FAIL, Outcome.PASS]))
    assert 'd="M0 4h3v8H0zM5 4h1v8H5z"' in drawn
    assert 'd="M4 0h1v12H4z"' in drawn
    assert "4 pass, 1 fail" in drawn
    widths = [
        float(each)
        for each in re.findall(
            r' width="([\d.]+)"', str(charts.bar({Outcome.PASS: 100000, Outcome.FAIL: 1}))
        )
    ]
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert min(widths) > 1.9
    for values in ([], [None], [0.0], [3.0], [1.0, None, 2.0]):
        ET.fromstring(str(charts.line(values, "x")))
    ET.fromstring(str(charts.day_bars([Day(0, 1, 1, 1, 1.0)])))
    ET.fromstring(str(charts.day_bars([])))


BOUND = 300_000


@pytest.mark.deadline(600)
def test_no_page_grows_with_what_is_stored(tmp_path: Path) -> None:
    """More runs than are shown one by one, thousands of results, everything fails at length."""
    count, tests = 42, 1400
    series = [f"patch {number}: {HOSTILE}" for number in range(300)]
    for number in range(count):
        last = number == count - 1
        results = [
            result(
                f"{each}_{HOSTILE if each % 7 == 0 else 'name'}",
                "fail" if last or (each + number) % 3 == 0 else "skip" if each % 9 == 0 else "pass",
                suite=f"suite{each % 40}",
                reason=f"{each}: {HOSTILE * 4}",
                description=HOSTILE * 10,
                areas=(f"area {each}",),
                details="<&>" * 20 if last else "",
                console=f"[ 1.0] {HOSTILE}\n" * 200 if last and each % 10 == 0 else "",
            )
            for each in range(tests if number > count - 3 else 40)
        ]
        built = {"release": f"6.{number}", "tree": str(number), "series": series}
        write(
            tmp_path / "runs" / f"{number:02}",
            results,
            number,
            built=built,
            host=f"h{number}",
            command=["run", *["x" * 250] * 300],
        )
    with History.open(tmp_path / "h.db") as history:
        assert all(not done.problem for done in record.import_all(history, [tmp_path / "runs"]))
        site.write(history, runs.runs(history, 2), tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {name: size for name, size in sizes.items() if size > BOUND} == {}
    # Nothing is left out for it.
    listed = Page(tmp_path / "out" / f"run-{count}.html").tags
    assert len([1 for tag, attrs in listed if "#s" in str(attrs.get("href"))]) == 40
    found = [path.read_text() for path in (tmp_path / "out").glob(f"run-{count}-results-*.html")]
    assert sum(text.count("<tr data-name=") for text in found) == tests
    found = [path.read_text() for path in (tmp_path / "out").glob(f"run-{count}-failures-*.html")]
    assert sum(text.count("<details ") for text in found) == tests
    found = [path.read_text() for path in (tmp_path / "out").glob("tests-*.html")]
    assert sum(text.count("<tr data-name=") for text in found) == tests
    # What matters is on the page that is opened first, without a script.
    page = Page(tmp_path / "out" / f"run-{count}.html")
    assert f"{tests} failures with evidence" in page.text
    assert "Run 42 bad" in " ".join(page.text.split())


# Other formats ----------------------------------------------------------------------------


def test_kcidb_takes_every_run(history: History) -> None:
    from kcidb_io import schema

    latest = schema.LATEST
    assert (latest.major, latest.minor) == (kcidb.VERSION["major"], kcidb.VERSION["minor"])
    seen: set[str] = set()
    for run in runs.runs(history):
        results = runs.results(history, run)
        found = kcidb.report(run, results, "our_ci")
        latest.validate(found)
        assert latest.is_valid_exactly(json.loads(json.dumps(found)))
        assert len(found["tests"]) == len(results)
        ids = {each["id"] for each in found["tests"]}
        assert len(ids) == len(results)
        assert not ids & seen
        seen |= ids
    statuses = [each["status"] for each in found["tests"]]
    assert statuses == ["PASS"] * 31 + ["PASS"]


KVM_URL = "https://git.kernel.org/pub/scm/virt/kvm/kvm.git"


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (
            {"base": "~/linux@v6.16", "base_commit": "a" * 40, "base_url": KVM_URL},
            {
                "git_commit_hash": "a" * 40,
                "git_commit_name": "v6.16",
                "git_repository_url": KVM_URL,
                "tree_name": "kvm",
                "patchset_hash": "",
            },
        ),
        (
            {"base": "x@topic", "base_commit": "b" * 40, "patchset": "c" * 64},
            {"git_commit_hash": "b" * 40, "patchset_hash": "c" * 64},
        ),
        ({"base": "linux-source-6.12", "patchset": "c" * 64}, {"patchset_hash": "c" * 64}),
        ({"base": "linux-source-6.12"}, {}),
        ({"base": "x@y", "base_commit": "HEAD", "base_url": "file:///x", "patchset": "z"}, {}),
    ],
)
def test_kcidb_names_what_others_can_fetch(
    tmp_path: Path, built: dict[str, str], expected: dict[str, str]
) -> None:
    from kcidb_io import schema

    write(tmp_path / "run", [result("one")], built=built)
    with History.open(tmp_path / "h.db") as history:
        number = record.take(history, tmp_path / "run").run
        run = runs.get(history, number)
        found = kcidb.report(run, runs.results(history, run))
    schema.LATEST.validate(found)
    names = ("git_commit_hash", "git_commit_name", "git_repository_url", "tree_name")
    [checkout] = found["checkouts"]
    seen = {name: checkout[name] for name in (*names, "patchset_hash") if name in checkout}
    assert seen == expected


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git", "mainline"),
        ("https://git.kernel.org/pub/scm/linux/kernel/git/next/linux-next.git", "linux-next"),
        (KVM_URL, "kvm"),
        ("https://example.org/linux.git", ""),
        ("", ""),
    ],
)
def test_kcidb_trees(url: str, name: str) -> None:
    assert kcidb.tree_name(url) == name


def test_kcidb_paths_and_excerpts() -> None:
    assert kcidb.path_of(result("x y")) == "snptest.psc.psc.x_y.v12"
    assert kcidb.path_of(result(id="boot::a b.c", suite="boot")) == "snptest.boot.boot.a_b_c"
    assert kcidb.path_of(result(id="::[]", suite="é")) == "snptest"


def test_one_run_in_every_format(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit, taps, kcidb_file = tmp_path / "j.xml", tmp_path / "o" / "k.tap", tmp_path / "k.json"
    words = ["--junit", str(junit), "--ktap", str(taps), "--kcidb", str(kcidb_file)]
    code, _, err = snptest(capsys, "report", str(folder / "b1"), *words)
    assert code == 0, err
    root = ET.parse(junit).getroot()
    assert len(list(root.iter("testcase"))) == 32
    properties = {each.get("name"): each.get("value") for each in root.iter("property")}
    assert properties["machine"] == "snp"
    with History.open(tmp_path / "h.db") as history:
        run = record.take(history, folder / "b1").run
        assert taps.read_text() == ktap.render(runs.results(history, run))
    assert len(json.loads(kcidb_file.read_text())["tests"]) == 32
    code, out, _ = snptest(capsys, "report", str(folder / "b1"), "--ktap", "-")
    assert out.startswith("KTAP version 1\n")


def test_pages_of_folders_need_no_history(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = snptest(capsys, "report", str(folder), "-o", str(tmp_path / "out"))
    assert code == 0, err
    assert out == f"5 runs, overview: {tmp_path}/out/index.html\n"
    assert len(list((tmp_path / "out").glob("run-?.html"))) == 5


def test_days_are_told_without_a_time(history: History, tmp_path: Path) -> None:
    """All runs are of one day (UTC), which is named once."""
    index = site.write(history, runs.runs(history), tmp_path / "out")
    days = index.read_text().partition("Results by day")[2].partition("</section>")[0]
    assert re.search(r">20\d\d-\d\d-\d\d: \d+ good", days), days[-300:]


def test_pages_of_runs_by_their_numbers(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for words in (["2"], ["last"]):
        code, _, err = snptest(capsys, "report", *words, "--db", str(history.path), "-o", str(out))
        assert code == 0, err
    assert {path.name for path in out.glob("run-?.html")} == {"run-2.html", "run-5.html"}
    assert "run-2.html" in (out / "index.html").read_text()


def test_lists_of_an_earlier_report_do_not_stay(history: History, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stale = [out / f"{name}-9.html" for name in ("tests", "runs", "run-2-results", "by-host")]
    kept = [out / f"{name}.html" for name in ("run-22", "run-22-results-1", "run-3-results-9")]
    for path in (*stale, *kept):
        path.write_text("")
    site.write(history, [runs.get(history, 2)], out)
    assert [path for path in stale if path.exists()] == []
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["last"], "what is to be written?"),
        (["--ktap", "-"], "hold one run, and 5 are chosen"),
        (["last", "--kcidb", "-", "--origin", "Our CI"], "KCIDB takes a-z, 0-9 and _"),
        (["99", "--ktap", "-"], "the history has no run 99"),
        (["last", "-o", "/proc/x"], "cannot write /proc/x"),
        (["last", "--kcidb", "/proc/x/y"], "cannot write /proc/x"),
    ],
)
def test_mistakes_are_one_line(
    history: History, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, _, err = snptest(capsys, "report", "--db", str(history.path), *words)
    assert code in (2, 3)
    assert said in err
    assert "Traceback" not in err
