# SPDX-License-Identifier: GPL-2.0-only
"""Made-up patch mails for a file of 120 lines, and the repository that they are made for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fakekernel import git

CASES = Path(__file__).parent / "data" / "series-mails"
FILE = "arch/x86/kvm/svm/sev.c"
SEPARATOR = "From mboxrd@z Thu Jan  1 00:00:00 1970\n"


def make_tree(folder: Path) -> Path:
    """Make the toy tree, a git repository with the tag base; return it."""
    subprocess.run([CASES / "make-tree", folder], check=True, capture_output=True)
    return folder


def diff(line: int, new: str, old: str = "void") -> str:
    """Return a diff that changes one line's parameter, with the prefixes of git."""
    context = [f" int line{n}(void);\n" for n in range(line - 3, line + 4) if n != line]
    return (
        f"diff --git a/{FILE} b/{FILE}\n--- a/{FILE}\n+++ b/{FILE}\n"
        f"@@ -{line - 3},7 +{line - 3},7 @@\n{''.join(context[:3])}"
        f"-int line{line}({old});\n+int line{line}({new});\n{''.join(context[3:])}"
    )


def mail(
    tag: str,
    identifier: str = "",
    above: str = "",
    *,
    body: str = "",
    title: str = "KVM: SEV: change",
    sender: str = "A Developer <a@example.org>",
    footer: str = "-- \n2.39.5\n",
) -> str:
    """Return a mail: a tag like "PATCH v2 1/3", and by default the patch to line 20 n of that."""
    number = tag.rpartition("/")[0].rpartition(" ")[2]
    if not body:
        body = diff(20 * int(number or 1), f"int p{number or 1}")
    heads = [f"From: {sender}", "Date: Mon, 30 Nov 2026 00:00:00 +0000"]
    heads.append(f"Subject: [{tag}] {title} {number.strip('0')}".rstrip())
    heads += [f"Message-ID: <{identifier}>"] if identifier else []
    heads += [f"In-Reply-To: <{above}>", f"References: <{above}>"] if above else []
    return "\n".join(heads) + f"\n\nBecause.\n---\n{body}{footer}"


def thread(version: str, total: int, prefix: str, above: str = "", use: str = "int p") -> list[str]:
    """Return a cover letter and patches that answer it, as git send-email sends them."""
    cover = f"{prefix}0@example.org"
    found = [mail(f"{version} 0/{total}", cover, above, body="Blurb\n", title="KVM: SEV: all")]
    for n in range(1, total + 1):
        text = diff(20 * n, f"{use}{n}")
        found.append(mail(f"{version} {n}/{total}", f"{prefix}{n}@example.org", cover, body=text))
    return found


def write_mbox(path: Path, mails: list[str]) -> Path:
    """Write an mbox; return it."""
    path.write_text("\n".join(SEPARATOR + each for each in mails))
    return path


def commit_with(repository: Path, line: int, new: str, subject: str) -> str:
    """Change one line of the tree's file, and commit that; return the commit."""
    path = repository / FILE
    text = path.read_text().replace(f"int line{line}(void);", f"int line{line}({new});")
    path.write_text(text)
    git(repository, "commit", "-q", "-a", "-m", subject)
    return git(repository, "rev-parse", "HEAD")
