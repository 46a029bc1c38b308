# SPDX-License-Identifier: GPL-2.0-only
"""A series of sixteen patches on a kernel, one of which breaks guest_memfd: for bisections.

Two are of data/series-hole, the innocent one that prepares the other and the one to blame.
The others change what files of svm/ compile to, so that a rebuild is short.
"""

from __future__ import annotations

from pathlib import Path

from harness import kbuild
from harness.kbuild import cache
from harness.kbuild.tree import KernelTree

BASE = "linux-source-6.12"
COUNT = 16
PREPARES = 3
"""The number of the patch that makes room for the bad one."""
FILES = ("sev.c", "nested.c", "avic.c", "pmu.c")
"""Of arch/x86/kvm/svm: each innocent patch changes the next of them."""
HOLE = Path(__file__).parent / "data" / "series-hole"
HEAD = """\
From: A Developer <developer@example.org>
Subject: [PATCH {number}/{count}] KVM: SVM: say what {file} is at step {number}

A change that does nothing.
---
"""


def write(folder: Path, bad: int, salt: str = "") -> Path:
    """Write the patches into a folder of their own; `bad` is the one to blame, behind PREPARES.

    Another salt gives another series with the same blame: nothing of it is built already.
    """
    if not PREPARES < bad <= COUNT:
        raise ValueError(f"patch {bad} cannot be the bad one")
    folder.mkdir(parents=True)
    prepares, breaks = sorted(HOLE.glob("000[12]-*.patch"))
    [(base, _)] = kbuild.applied(BASE)
    tree = KernelTree(cache.root() / "linux")
    paths = [f"arch/x86/kvm/svm/{name}" for name in FILES]
    texts = {path: tree.git_bytes("show", f"{base}:{path}").decode() for path in paths}
    for number in range(1, COUNT + 1):
        if number in (PREPARES, bad):
            source = prepares if number == PREPARES else breaks
            (folder / f"{number:04}-{source.name[5:]}").write_bytes(source.read_bytes())
            continue
        path = paths[number % len(paths)]
        head = HEAD.format(number=number, count=COUNT, file=Path(path).name)
        symbol = f"snptest_step_{salt}{number}"
        lines = [f"int {symbol}(void);", f"int {symbol}(void)", "{", f"\treturn {number};", "}"]
        patch = head + _appended(path, texts[path], lines)
        texts[path] += "".join(f"{line}\n" for line in lines)
        (folder / f"{number:04}-KVM-SVM-step.patch").write_text(patch)
    return folder


def _appended(path: str, text: str, lines: list[str]) -> str:
    """Return the diff that puts lines at the end of a file."""
    before = text.splitlines()[-3:]
    first = len(text.splitlines()) - len(before) + 1
    hunk = f"@@ -{first},{len(before)} +{first},{len(before) + len(lines)} @@"
    body = [*(f" {line}" for line in before), *(f"+{line}" for line in lines)]
    return "\n".join([f"--- a/{path}", f"+++ b/{path}", hunk, *body]) + "\n"
