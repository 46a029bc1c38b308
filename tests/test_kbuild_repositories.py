# SPDX-License-Identifier: GPL-2.0-only
"""Repositories and directories as people have them: partial, sparse, somebody else's, odd names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import host_packages
from harness.errors import BuildError, UsageError, UserError
from harness.history import identity
from harness.kbuild import base as bases
from harness.kbuild import cache
from harness.kbuild.gitrun import GitError
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree
from harness.report import sanitize
from tests import fakekernel
from tests.fakekernel import git

NOBODY = 65534


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelTree:
    """An empty cache, and a user with an empty configuration of git."""
    host_packages.ensure_packages(["git"], "for a test")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return KernelTree(cache.root() / "linux")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with KVM 1 as v1 and 2 as v2, which serves partial clones."""
    return repository(tmp_path / "origin")


def repository(path: Path, *options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fakekernel.write_tree(path)
    git(path, "init", "-q", *options)
    for number in (1, 2):
        (path / "include/kvm.h").write_text(f"#define KVM {number}\n")
        git(path, "add", "--force", ".")
        git(path, "commit", "-q", "-m", f"KVM: {number}")
        git(path, "tag", f"v{number}")
    git(path, "config", "uploadpack.allowFilter", "true")
    return path


def clone(origin: Path, *options: str) -> Path:
    path = origin.with_name("clone")
    subprocess.run(
        ["git", "clone", "-q", *options, origin.as_uri(), str(path)], check=True, timeout=60
    )
    return path


def kvm(tree: KernelTree, base: str) -> str:
    """Take a base; return what it says of KVM."""
    commit = bases.resolve(base).commit_of(tree, Progress())
    return tree.git("show", f"{commit}:include/kvm.h").split()[-1]


@pytest.mark.parametrize("options", [("--filter=blob:none",), ("--filter=tree:0", "--bare")])
def test_what_a_partial_clone_lacks_comes_from_where_it_is_of(
    tree: KernelTree, origin: Path, options: tuple[str, ...]
) -> None:
    """Also of a revision that was never checked out; nothing is written into the clone."""
    path = clone(origin, *options)
    objects = sorted(path.rglob("objects/**/*"))
    assert kvm(tree, f"{path}@v1") == "1"
    assert sorted(path.rglob("objects/**/*")) == objects
    if "--bare" not in options:
        assert kvm(tree, str(path)) == "2"  # a directory needs none of it


def test_what_nobody_has_is_told_with_git_s_remedy(tree: KernelTree, origin: Path) -> None:
    path = clone(origin, "--filter=blob:none")
    shutil.move(origin, origin.with_name("moved"))
    with pytest.raises(
        BuildError, match=r"clone is a partial clone .* lacks files of it"
    ) as caught:
        kvm(tree, f"{path}@v1")
    assert f"git -C {path} worktree add --detach FOLDER v1" in caught.value.hint
    # The remedy, once the origin is back.
    shutil.move(origin.with_name("moved"), origin)
    folder = origin.with_name("folder")
    git(path, "worktree", "add", "-q", "--detach", str(folder), "v1")
    shutil.move(origin, origin.with_name("moved"))
    assert kvm(tree, str(folder)) == "1"


def test_a_sparse_checkout_is_no_tree_with_files_removed(tree: KernelTree, origin: Path) -> None:
    path = clone(origin, "--sparse")
    with pytest.raises(
        UsageError, match=r"sparse checkout: 6 files of it, such as drivers/kvm"
    ) as e:
        kvm(tree, str(path))
    assert "sparse-checkout disable" in e.value.hint
    assert kvm(tree, f"{path}@v1") == "1"
    git(path, "sparse-checkout", "disable")
    assert kvm(tree, str(path)) == "2"
    (path / "drivers/lkdtm.c").unlink()  # by hand: that is meant
    assert kvm(tree, str(path)) == "2"


@pytest.mark.parametrize("name", ["job@2/linux", "sp ace, comma/it's", "ä#%d", "a:b", "x@y:z"])
def test_names_of_folders(name: str, tree: KernelTree, tmp_path: Path, origin: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.move(origin, path)
    assert kvm(tree, str(path)) == "2"
    assert kvm(tree, f"{path}@v1") == "1"


def test_jenkins_second_workspace_is_not_the_first(tree: KernelTree, tmp_path: Path) -> None:
    """Where two jobs run at once, there are job and job@2."""
    first = repository(tmp_path / "job")
    git(first, "branch", "2", "v1")
    second = repository(tmp_path / "job@2")
    assert kvm(tree, f"{second}@v1") == "1"
    assert kvm(tree, str(second)) == "2"
    assert str(bases.resolve(f"{second}@v1")) == f"{second}@v1"
    assert str(bases.resolve(f"{second}@HEAD@{{0}}")) == f"{second}@HEAD@{{0}}"


def test_a_relative_name_that_looks_like_an_address(
    tree: KernelTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "me@host:linux")
    monkeypatch.chdir(tmp_path)
    assert kvm(tree, "me@host:linux") == "2"


@pytest.mark.parametrize(
    "make",
    [
        lambda origin: clone(origin, "--depth=1"),
        lambda origin: clone(origin, "--shared"),
        lambda origin: clone(origin, "--bare"),
        lambda origin: (
            Path(git(origin, "worktree", "add", "-q", "../tree", "v2") or origin.parent) / "tree"
        ),
    ],
    ids=["shallow", "shared", "bare", "worktree"],
)
def test_kinds_of_repositories(
    make: Callable[[Path], Path], tree: KernelTree, origin: Path
) -> None:
    path = make(origin)
    assert kvm(tree, str(path)) == "2"
    assert kvm(tree, f"{path}@HEAD") == "2"


def test_other_names_of_objects_are_told(tree: KernelTree, tmp_path: Path) -> None:
    path = repository(tmp_path / "new", "--object-format=sha256")
    assert kvm(tree, str(path)) == "2"
    with pytest.raises(UsageError, match="has sha256 objects, of which git fetches none") as caught:
        kvm(tree, f"{path}@v1")
    assert "name the directory alone" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, as only root can")
def test_somebody_else_s_repository_needs_git_s_consent(tree: KernelTree, origin: Path) -> None:
    """The user's safe.directory counts, although our own repository ignores his configuration."""
    for each in (origin, *origin.rglob("*")):
        os.chown(each, NOBODY, -1)
    add = f"git config --global --add safe.directory {origin}"
    for base in (str(origin), f"{origin}@v1", f"{origin.as_uri()}@v1"):
        with pytest.raises(UserError, match=r"belongs to nobody, and git reads no") as caught:
            kvm(tree, base)
        assert caught.value.hint == f"if you trust it: {add}"
    subprocess.run(add.split(), check=True, timeout=60)
    assert kvm(tree, str(origin)) == "2"
    assert kvm(tree, f"{origin}@v1") == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, as only root can")
def test_a_cache_of_somebody_else_is_told(tree: KernelTree, origin: Path) -> None:
    """A safe.directory would not help there."""
    for each in (tree.path, *tree.path.rglob("*")):
        os.chown(each, NOBODY, -1)
    with pytest.raises(UserError, match="linux belongs to nobody") as caught:
        kvm(tree, f"{origin}@v1")
    assert caught.value.hint == "run as nobody, or let XDG_CACHE_HOME name a folder of yours"


def test_a_file_system_without_case_is_told(tree: KernelTree, origin: Path) -> None:
    commit = bases.resolve(f"{origin}@v1").commit_of(tree, Progress())
    tree.check_out_version(commit)
    tree.git("config", "core.ignorecase", "true")  # as git init finds out there
    with pytest.raises(UsageError, match=r"x\.h and X\.H are one file"):
        tree.check_out_version(commit)


def test_passwords_in_addresses_are_not_shown(tree: KernelTree) -> None:
    address = "http://user:secret@127.0.0.1:1/x.git"
    with pytest.raises(BuildError) as caught:
        kvm(tree, f"{address}@v1")
    assert "secret" not in f"{caught.value}"
    assert "http://127.0.0.1:1/x.git@v1 could not be fetched" in caught.value.message
    with pytest.raises(UsageError) as usage:
        bases.resolve(address)
    assert "secret" not in f"{usage.value}"
    assert "secret" not in str(bases.resolve(f"{address}@v1"))
    words = ["build", "--base", f"{address}@v1"]
    said = identity.describe(backend="emulator", kernel=None, label="", command=words)
    assert said["command"] == ["build", "--base", "http://127.0.0.1:1/x.git@v1"]
    assert sanitize.address("ssh://git:pw@host/x") == "ssh://git@host/x"
    assert sanitize.address("ssh://git@host/x") == "ssh://git@host/x"
    assert sanitize.address("git@host:x@v1 /a/b@2") == "git@host:x@v1 /a/b@2"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "remote: warning: lazy fetching disabled; some objects may not be available\n"
            "remote: fatal: could not fetch 1482d4 from promisor remote\n"
            "fatal: protocol error: bad pack header",
            "could not fetch 1482d4 from promisor remote",
        ),
        (
            "fatal: '/x' does not appear to be a git repository\n"
            "fatal: Could not read from remote repository.\n\nPlease make sure",
            "'/x' does not appear to be a git repository",
        ),
        ("fatal: Could not read from remote repository.", "Could not read from remote repository."),
        (
            "ssh: no route to host\nfatal: Could not read from remote repository.",
            "ssh: no route to host",
        ),
        ("", "git gave no reason"),
    ],
)
def test_the_reason_git_gives_is_its_first_error(said: str, reason: str) -> None:
    assert GitError(said).reason == reason
