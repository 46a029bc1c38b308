# SPDX-License-Identifier: GPL-2.0-only
"""What --base and --series can name, besides Debian's packages and folders of patches."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import host_packages
from harness.errors import BuildError, UsageError
from harness.kbuild import base as bases
from harness.kbuild import cache, gitbase
from harness.kbuild.gitbase import GitRevision
from harness.kbuild.progress import Progress
from harness.kbuild.series import load_all, load_series
from harness.kbuild.snapshot import Directory
from harness.kbuild.tree import KernelTree
from tests import fakekernel
from tests.fakekernel import git

PATCH = """\
From: A Developer <developer@example.org>
Subject: %s

Why.
From now on this is a line, not a new mail.
---
diff --git a/include/kvm.h b/include/kvm.h
--- a/include/kvm.h
+++ b/include/kvm.h
@@ -1 +1 @@
-#define KVM %d
+#define KVM %d
"""


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelTree:
    host_packages.ensure_packages(["git"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return KernelTree(cache.root() / "linux")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fakekernel.write_tree(tmp_path / "work")


@pytest.fixture
def repository(folder: Path) -> Path:
    """The tree in git, with two commits on top of the tag v1."""
    git(folder, "init", "-q")
    git(folder, "add", "--force", ".")
    git(folder, "commit", "-q", "-m", "base")
    git(folder, "tag", "v1")
    for number in (2, 3):
        (folder / "include/kvm.h").write_text(f"#define KVM {number}\n")
        git(folder, "commit", "-q", "-a", "-m", f"KVM: {number}")
    return folder


def commit(base: str, tree: KernelTree, revision: str | None = None) -> str:
    return bases.resolve(base, revision).commit_of(tree, Progress())


def files(tree: KernelTree, commit: str) -> dict[str, str]:
    names = tree.git("ls-tree", "-r", "--name-only", commit).splitlines()
    return {name: tree.git("show", f"{commit}:{name}") for name in names}


@pytest.mark.parametrize("in_git", [True, False])
def test_a_directory_is_taken_as_it_is(
    tree: KernelTree, folder: Path, in_git: bool, request: pytest.FixtureRequest
) -> None:
    """With edits, new and removed files; without what a build left; reproducibly."""
    if in_git:
        request.getfixturevalue("repository")
    first = commit(str(folder), tree)
    assert commit(str(folder), tree) == first
    (folder / "include/kvm.h").write_text("#define KVM 77\n")
    (folder / "drivers/new.c").write_text("int new;\n")
    (folder / "drivers/lkdtm.c").unlink()
    (folder / "drivers/kvm.o").write_text("an object")
    (folder / "vmlinux").write_text("an image")
    status = git(folder, "status", "--porcelain") if in_git else ""
    second = commit(str(folder), tree)
    changed = tree.changed_files(first, second)
    assert changed == ["drivers/lkdtm.c", "drivers/new.c", "include/kvm.h"]
    assert files(tree, second)["include/kvm.h"] == "#define KVM 77"
    assert tree.git("ls-tree", second, "scripts/decode_stacktrace.sh").startswith("100755")
    if in_git:
        assert git(folder, "status", "--porcelain") == status
    else:
        assert not (folder / ".git").exists()
    (folder / "drivers/new.c").unlink()
    (folder / "include/kvm.h").write_text(files(tree, first)["include/kvm.h"] + "\n")
    assert tree.changed_files(first, commit(str(folder), tree)) == ["drivers/lkdtm.c"]


def test_a_directory_s_own_rules_say_what_is_no_source(tree: KernelTree, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.o\n")
    (folder / "drivers/.gitignore").write_text("/table.h\n")
    (folder / "drivers/table.h").write_text("made by the build")
    (folder / "table.h").write_text("a source")
    names = files(tree, commit(str(folder), tree))
    assert "table.h" in names
    assert "drivers/table.h" not in names


def test_a_directory_is_what_its_tarball_is(tree: KernelTree, folder: Path, tmp_path: Path) -> None:
    """So that both are one kernel: also what .gitignore would hide, as Debian's does much."""
    for name in (".clang-format", "lib/.kunitconfig", "tools/tags/Makefile", "debian/rules"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a source\n")
    with (folder / ".gitignore").open("a") as rules:
        rules.write(".*\ntags\n*.ko\n")
    path = tmp_path / "linux.tar"
    pack(path, folder, "linux")
    whole = tree.tree_of(commit(str(path), tree))
    for name in ("vmlinux", ".config", "modules.order", "lib/.x.o.cmd", "lib/x.o", "lib/x.ko"):
        (folder / name).write_text("built")
    assert tree.tree_of(commit(str(folder), tree)) == whole


def test_only_changed_files_are_read_again(tree: KernelTree, folder: Path) -> None:
    """The developer's loop must not cost the time to read a whole kernel tree."""
    commit(str(folder), tree)
    index = Directory(folder).index
    before = tree.git("ls-files", "--debug", index=index, files=folder)
    commit(str(folder), tree)
    assert tree.git("ls-files", "--debug", index=index, files=folder) == before
    index.write_bytes(b"damaged")
    with pytest.raises(BuildError, match="could not be read"):
        commit(str(folder), tree)
    commit(str(folder), tree)  # the index was made anew


def test_a_directory_without_sources_is_told(tree: KernelTree, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel sources are there"):
        commit(str(tmp_path), tree)
    own = fakekernel.write_tree(cache.root() / "linux-6.12")
    with pytest.raises(UsageError, match="snptest's own"):
        commit(str(own), tree)
    with pytest.raises(UsageError, match="no such file or directory") as caught:
        bases.resolve(str(tmp_path / "gone"))
    assert "linux-source-7.x" in caught.value.hint
    with pytest.raises(UsageError, match="has no revisions"):
        bases.resolve("linux-source-6.12", "v6.12")


def zstd(content: bytes) -> bytes:
    host_packages.ensure_packages(["zstd"], "for a test")
    return subprocess.run(["zstd", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout


def pack(path: Path, folder: Path, name: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, name)
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".xz": lzma.compress,
        ".gz": gzip.compress,
        ".zst": zstd,
        ".tar": bytes,
    }
    path.write_bytes(packers[path.suffix](content.getvalue()))


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_tarballs_are_imported_once(
    tree: KernelTree, folder: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"linux-6.12.7.tar.{kind}"
    pack(path, folder, "linux-6.12.7")
    first = commit(str(path), tree)
    assert files(tree, first)["drivers/kvm.c"] == (folder / "drivers/kvm.c").read_text().strip()
    again = path.rename(tmp_path / f"again.tar.{kind}")
    assert commit(str(again), tree) == first
    empty = tmp_path / f"empty.tar.{kind}"
    pack(empty, folder / "drivers", "drivers")
    for _ in range(2):
        with pytest.raises(UsageError, match="holds no kernel sources"):
            commit(str(empty), tree)
    damaged = tmp_path / f"damaged.tar.{kind}"
    damaged.write_bytes(again.read_bytes()[:-30])
    with pytest.raises(BuildError, match="could not be imported"):
        commit(str(damaged), tree)
    with pytest.raises(UsageError, match="not a tarball"):
        bases.resolve(str(folder / "Makefile"))


def test_revisions_of_a_repository(tree: KernelTree, repository: Path, tmp_path: Path) -> None:
    newest, older = git(repository, "rev-parse", "HEAD", "HEAD~1").splitlines()
    assert commit(f"{repository}@v1", tree) == git(repository, "rev-parse", "v1")
    assert commit(str(repository), tree, "HEAD~1") == older
    assert tree.git("log", "--format=%s", older).splitlines() == ["KVM: 2"]  # no history
    bare = tmp_path / "with@sign.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    assert bases.resolve(str(bare)) == GitRevision(str(bare), "HEAD")
    assert commit(f"{bare}@main", tree) == newest
    assert commit(f"file://{bare}", tree, "main") == newest
    with pytest.raises(UsageError, match="git knows no revision v9 there"):
        commit(f"{repository}@v9", tree)
    with pytest.raises(UsageError, match="is no git repository"):
        commit(str(tmp_path), tree, "v1")


def test_addresses_are_fetched_or_fail_in_one_line(tree: KernelTree, tmp_path: Path) -> None:
    address = "https://git.invalid/linux.git"
    assert bases.resolve(f"{address}@v6.16") == GitRevision(address, "v6.16")
    assert bases.resolve(address, "a/b") == GitRevision(address, "a/b")
    assert bases.resolve("git@host:linux.git", "v1") == GitRevision("git@host:linux.git", "v1")
    with pytest.raises(UsageError, match="needs a revision"):
        bases.resolve(address)
    with pytest.raises(BuildError) as caught:
        commit(f"file://{tmp_path}/gone.git", tree, "v1")
    assert "\n" not in caught.value.message
    assert "could not be fetched" in caught.value.message
    assert "reachable" in caught.value.hint


def test_a_git_range_is_a_series(repository: Path, tree: KernelTree) -> None:
    for spec, where in ((f"{repository}:v1..main", None), ("v1..", repository)):
        patches = load_all([spec], where).patches
        assert [each.name.split(" ", 1)[1] for each in patches] == ["KVM: 2", "KVM: 3"]
        base = commit(f"{repository}@v1", tree)
        last = tree.apply(base, [(each.name, each.diff) for each in patches])
        assert tree.tree_of(last) == git(repository, "rev-parse", "main^{tree}")
    assert bases.repository_of(bases.resolve(f"{repository}@v1")) == repository
    assert bases.repository_of(bases.resolve(str(repository))) == repository
    git(repository, "checkout", "-q", "-b", "side", "v1")
    (repository / "drivers/side.c").write_text("int side;\n")
    git(repository, "add", "-f", ".")
    git(repository, "commit", "-q", "-m", "side")
    git(repository, "merge", "-q", "-m", "a merge", "main")
    for spec, complaint in (
        ("v1..side", "a merge is a merge, not a patch"),
        ("main..v1", "no commit is in that range"),
        ("v1...main", "a range is A..B"),
        ("v1..gone", "git knows no revision gone"),
    ):
        with pytest.raises(UsageError, match=complaint):
            load_all([spec], repository)
    with pytest.raises(UsageError, match="a range of which repository"):
        load_all(["v1..main"], None)


def mail(subject: str, old: int = 1, new: int = 2) -> str:
    return PATCH % (subject, old, new)


def test_a_thread_is_put_in_order_without_replies(tmp_path: Path) -> None:
    """As lore has it: mails as they came, answers between them, some with a diff."""
    mails = [
        "From: A <a@example.org>\nSubject: [PATCH 0/2] KVM: both\n\nBlurb\n",
        mail("[PATCH 2/2] KVM: =?utf-8?q?zw=C3=B6lf?=", 2, 3),
        mail("Re: [PATCH 1/2] KVM: one", 8, 9),
        mail("[PATCH 1/2] KVM: \x1b[31mone", 1, 2),
    ]
    separator = "From mboxrd@z Thu Jan  1 00:00:00 1970\n"
    box = tmp_path / "thread.mbox"
    box.write_text("\n".join(separator + each for each in mails))
    expected = ["mail 4: [PATCH 1/2] KVM: one", "mail 2: [PATCH 2/2] KVM: zw\u00f6lf"]
    names = [patch.name for patch in load_series(box)]
    assert names == [f"thread.mbox: {name}" for name in expected]
    folder = tmp_path / "maildir"
    for name in ("cur", "new", "tmp"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate(mails):
        place = folder / ("cur" if number % 2 else "new")
        (place / f"{number}.host").write_text(text)
    assert [patch.name for patch in load_series(folder)] == [
        f"maildir: {each}" for each in expected
    ]
    single = tmp_path / "single.patch"
    single.write_text(separator + mails[3])
    assert [patch.name for patch in load_series(single)] == ["single.patch"]


def test_several_series_follow_each_other(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.patch").write_text(mail(f"[PATCH] {name}"))
    paths: list[str | Path] = [tmp_path / "b.patch", str(tmp_path / "a.patch")]
    assert [patch.name for patch in load_all(paths).patches] == ["b.patch", "a.patch"]
    with pytest.raises(UsageError, match="does not exist") as caught:
        load_all(["gone.patch"])
    assert "REPOSITORY:A..B" in caught.value.hint


def test_a_url_is_not_a_path() -> None:
    assert gitbase.is_url("https://host/x.git")
    assert gitbase.is_url("git@host:x.git")
    assert not gitbase.is_url("/a/b@c")
    assert not gitbase.is_url("linux@v6.12")


def test_gzip_is_read_to_its_end(tree: KernelTree, folder: Path, tmp_path: Path) -> None:
    """A tarball whose trailer is wrong is damaged, though tar has seen all it wants."""
    plain = tmp_path / "linux.tar"
    pack(plain, folder, "linux")
    packed = bytearray(gzip.compress(plain.read_bytes()))
    packed[-6] ^= 0xFF
    path = tmp_path / "linux.tar.gz"
    path.write_bytes(packed)
    with pytest.raises(BuildError, match="could not be imported"):
        commit(str(path), tree)
