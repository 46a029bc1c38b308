# SPDX-License-Identifier: GPL-2.0-only
"""Users' settings of git, and what a hook or a CI exports: none changes what is built."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from harness import host_packages
from harness.bisect import revisions
from harness.errors import UsageError
from harness.history import identity
from harness.kbuild import cache
from harness.kbuild.gitbase import GitRevision, commits_between
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree
from tests import fakekernel
from tests.fakekernel import git

CONFIGURATION = """\
[diff]
    noprefix = true
    mnemonicPrefix = true
    context = 0
    external = /bin/false
[color]
    ui = always
[core]
    autocrlf = true
    hooksPath = %(hooks)s
[apply]
    whitespace = fix
[commit]
    gpgSign = true
[fetch]
    prune = true
    pruneTags = true
[init]
    defaultObjectFormat = sha256
[log]
    showSignature = true
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home of its own the user's, with no settings yet, and the cache elsewhere."""
    host_packages.ensure_packages(["git"], "for a test")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def repository(tmp_path: Path, home: Path) -> Path:
    """Make a kernel tree in git: the tag v1, and two commits on top, one of which is signed."""
    path = fakekernel.write_tree(tmp_path / "work")
    git(path, "init", "-q")
    git(path, "add", "--force", ".")
    git(path, "commit", "-q", "-m", "base")
    git(path, "tag", "v1")
    for number in (2, 3):
        (path / "include/kvm.h").write_text(f"#define KVM {number}\n\n\n\n\n\n\n\n\n/* end */\n")
        git(path, "commit", "-q", "-a", "-m", f"KVM: {number}")
    git(path, "checkout", "-q", "--detach")
    _sign(path)
    return path


def _sign(path: Path) -> None:
    """Put a signature on the newest commit.  Whose it is does not matter, nor whether it holds."""
    text = git(path, "cat-file", "commit", "HEAD")
    header, _, message = text.partition("\n\n")
    lines = ["-----BEGIN SSH SIGNATURE-----", "U1NIU0lH", "-----END SSH SIGNATURE-----"]
    signed = path.parent / "signed"
    signed.write_text(f"{header}\ngpgsig " + "\n ".join(lines) + f"\n\n{message}\n")
    git(path, "reset", "-q", git(path, "hash-object", "-t", "commit", "-w", str(signed)))


def _hooks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("post-checkout", "post-index-change"):
        hook = folder / name
        hook.write_text("#!/bin/sh\necho '/* hooked */' >>include/kvm.h\n")
        hook.chmod(0o755)
    return folder


def built(repository: Path) -> tuple[str, dict[str, bytes], list[str], bytes]:
    """Return what `build --base R@v1 --series v1..HEAD` would build: tree, files, names, a diff."""
    tree = KernelTree(cache.root() / "linux")
    base = GitRevision(str(repository), "v1").commit_of(tree, Progress())
    series = commits_between(repository, "v1..HEAD")
    last = tree.apply(base, series)
    files = tree.check_out_version(last)
    content = {
        str(path.relative_to(files)): path.read_bytes()
        for path in files.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(files).parts
    }
    names = [name for name, _ in series]
    return tree.tree_of(last), content, names, tree.diff(base, last, ["include"])


@pytest.mark.parametrize(
    "environment",
    [
        {"GIT_DIFF_OPTS": "-u0"},
        {"GIT_EXTERNAL_DIFF": "/bin/echo"},
        {"GIT_DEFAULT_HASH": "sha256"},
        {"GIT_TEMPLATE_DIR": "template"},
        {"GIT_CONFIG_PARAMETERS": "'core.autocrlf'='true'"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath"},
        {"GIT_DIR": "other/.git", "GIT_WORK_TREE": "other"},
        {"GIT_INDEX_FILE": "other/.git/index", "GIT_PREFIX": "x/", "GIT_QUARANTINE_PATH": "/x"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_the_environment_says_changes_nothing(
    repository: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook, below `git -c ... bisect run`, or in a CI that sets GIT_CONFIG_KEY_0."""
    expected = built(repository)
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "-q")
    _hooks(tmp_path / "template/hooks")
    for name, value in environment.items():
        inside = value.split("/")[0] in ("other", "template")
        monkeypatch.setenv(name, str(tmp_path / value) if inside else value)
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path / "template/hooks"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    assert built(repository) == expected
    assert not any((tmp_path / "other/.git/refs").rglob("*/*"))


def test_what_the_user_s_configuration_says_changes_nothing(
    repository: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = built(repository)
    hooks = _hooks(tmp_path / "hooks")
    (home / ".gitconfig").write_text(CONFIGURATION % {"hooks": hooks})
    (home / ".config/git/attributes").write_text("*.h text eol=crlf\n* ident\n")
    (home / ".config/git/ignore").write_text("*.h\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    assert built(repository) == expected
    assert [name.split(" ", 1)[1] for name in expected[2]] == ["KVM: 2", "KVM: 3"]


def test_signatures_that_are_shown_are_no_names_of_commits(repository: Path, home: Path) -> None:
    """With log.showSignature, `git log --format=%H` begins with "No signature" and more."""
    expected = git(repository, "rev-list", "--reverse", "v1..HEAD").splitlines()
    (home / ".gitconfig").write_text("[log]\n    showSignature = true\n")
    found = revisions.of_git(str(repository), "v1", "HEAD", [])
    assert [each.commit for each in found.revisions][1:] == expected


def test_a_tarball_is_imported_into_the_cache_whatever_git_dir_says(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`snptest build` in a hook, for which git sets GIT_DIR to the user's repository."""
    path = tmp_path / "linux-1.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("linux-1/Makefile")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"x\n"))
    before = git(repository, "for-each-ref")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    tree = KernelTree(cache.root() / "linux")
    imported = tree.import_tarball(path, "refs/snptest/base/x")
    assert tree.git("show", f"{imported}:Makefile") == "x"
    assert git(repository, "for-each-ref") == before


def test_snptest_s_own_version_is_not_that_of_git_dir(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity.harness_version.cache_clear()
    expected = identity.harness_version()
    identity.harness_version.cache_clear()
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert identity.harness_version() == expected
    identity.harness_version.cache_clear()


def test_a_range_that_begins_where_a_shallow_clone_ends(repository: Path, tmp_path: Path) -> None:
    """It would be short of patches, and is no merge."""
    clone = tmp_path / "clone"
    url = repository.as_uri()
    git(tmp_path, "clone", "-q", "--depth=1", url, str(clone))
    git(clone, "fetch", "-q", "--depth=1", "origin", "tag", "v1")
    with pytest.raises(UsageError, match=r"has no parent in .*: its history ends there") as caught:
        commits_between(clone, "v1..HEAD")
    assert "--unshallow" in caught.value.hint
