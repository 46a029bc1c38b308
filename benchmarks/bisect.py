# SPDX-License-Identifier: GPL-2.0-only
"""A bisection over sixteen patches, one of which breaks guest_memfd, against `git bisect run`.

There the script is what a developer would write: make, then vng with the tests in it, by the
backend `local`.  Each side has a series of its own (tests/bisect_series.py, another salt), so
that none builds what the other has built, and objects of the base to begin with.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _bare
from harness import kbuild
from harness.kbuild import cache
from harness.places import ROOT
from tests import bisect_series

NAME = "bench-bisect"
BAD = 11
TEST = "suites/gmem/test_binding.py::test_every_page_of_a_hole"
BAR = 0.8
BUILDS_BAR = 6.0
"""Builds and boots, in whose time the patch is to be found."""
TIMEOUT = 3600.0
_SCRIPT = """\
#!/bin/sh
# Says good (0), bad (1), or 125: it does not build or boot.
date +%s.%N >> {folder}/times
{make} >{folder}/make.log 2>&1 || exit 125
date +%s.%N >> {folder}/times
rm -f {folder}/code
{vng} >{folder}/vng.log 2>&1
exit $(cat {folder}/code || echo 125)
"""
_INSIDE = """\
#!/bin/sh
for name in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
    insmod {objects}/$name.ko
done
cd {root}
export SNPTEST_RESULTS={folder}
{python} -m harness run '{test}' --backend local -n 0 >{folder}/run.log 2>&1
echo $? >{folder}/code
"""


def run() -> list[dict[str, Any]]:
    """Measure both."""
    folder = Path(tempfile.mkdtemp(prefix="snptest-bench-", dir=cache.root().parent))
    try:
        return _measured(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Bare:
    """The other side, ready to begin."""

    folder: Path
    commits: list[str]
    """Of the base, and after each patch."""

    @property
    def git(self) -> list[str]:
        """Git in its clone."""
        return ["git", "-C", str(self.folder / "linux")]

    @property
    def image(self) -> Path:
        """What is booted."""
        return self.folder / "objects/arch/x86/boot/bzImage"


def _measured(folder: Path) -> list[dict[str, Any]]:
    salt = str(time.time_ns())
    mine = bisect_series.write(folder / "mine", BAD, f"a{salt}_")
    theirs = bisect_series.write(folder / "theirs", BAD, f"b{salt}_")
    _bare.snptest("build", NAME, "--base", bisect_series.BASE)
    return _figures(folder, mine, _prepared(folder, theirs))


def _figures(folder: Path, mine: Path, bare: Bare) -> list[dict[str, Any]]:
    ours = _ours(folder, mine)
    theirs, steps, make = _theirs(bare)
    vng = theirs / steps - make
    true = _bare.run(_bare.vng_words(bare.image, "true")).seconds
    answer = json.loads((folder / "answer.json").read_text())
    return [
        {
            "name": f"bisect 16 patches ({answer['revisions']} builds, {answer['trials']} boots), "
            "against git bisect run with make and vng",
            "ratio": round(ours / theirs, 2),
            "bar": BAR,
            "detail": f"{ours:.0f} s, {theirs:.0f} s",
        },
        {
            "name": "the same, as a multiple of one make and one vng there",
            "ratio": round(ours / (make + vng), 1),
            "bar": BUILDS_BAR,
            "detail": f"make {make:.1f} s, vng with the test {vng:.1f} s",
        },
        {
            "name": "the same, as a multiple of a make and vng -- true for each of their steps",
            "ratio": round(ours / (steps * (make + true)), 2),
            "bar": None,
            "detail": f"{steps} steps, vng -- true {true:.1f} s: a test that costs nothing",
        },
    ]


def _ours(folder: Path, series: Path) -> float:
    words = ("bisect", "--base", bisect_series.BASE, "--series", str(series), TEST)
    options = ("--machine", "stock", "--json", str(folder / "answer.json"))
    ran = _bare.snptest(*words, *options, folder=folder)
    if f"the first bad one is patch {BAD} of" not in ran.output:
        raise RuntimeError(f"snptest found another patch:\n{ran.output[-2000:]}")
    return ran.seconds


def _prepared(folder: Path, series: Path) -> Bare:
    """Clone, build the base, and write the script."""
    commits = [commit for commit, _ in kbuild.applied(bisect_series.BASE, [str(series)])]
    bare = Bare(folder, commits)
    source, objects = folder / "linux", folder / "objects"
    store = str(cache.root() / "linux")
    _bare.run(["git", "clone", "-q", "--shared", "--no-checkout", store, str(source)])
    _bare.run([*bare.git, "checkout", "-q", commits[0]])
    objects.mkdir()
    shutil.copy(kbuild.get(NAME).config, objects / ".config")
    make = _bare.make_words(source, objects)
    _bare.run(make)
    inside, script = folder / "inside", folder / "script"
    inside.write_text(
        _INSIDE.format(root=ROOT, python=sys.executable, test=TEST, folder=folder, objects=objects)
    )
    vng = _bare.vng_words(bare.image, "sh", str(inside), writable=folder)
    texts = [" ".join(f"'{word}'" for word in words) for words in (make, vng)]
    script.write_text(_SCRIPT.format(folder=folder, make=texts[0], vng=texts[1]))
    for path in (inside, script):
        path.chmod(0o755)
    _bare.run([*bare.git, "bisect", "start", commits[-1], commits[0]])
    return bare


def _theirs(bare: Bare) -> tuple[float, int, float]:
    """Return the seconds of `git bisect run`, its steps, and the seconds of a make (median)."""
    ran = _bare.run([*bare.git, "bisect", "run", str(bare.folder / "script")])
    found = re.search(r"^(\w{40}) is the first bad commit", ran.output, re.MULTILINE)
    if not found or found[1] != bare.commits[BAD]:
        log = bare.folder / "run.log"
        said = log.read_text()[-1000:] if log.exists() else ""
        raise RuntimeError(f"git bisect run found another:\n{ran.output[-2000:]}\n{said}")
    times = [float(line) for line in (bare.folder / "times").read_text().split()]
    makes = [after - before for before, after in zip(times[::2], times[1::2], strict=True)]
    return ran.seconds, len(makes), statistics.median(makes)
