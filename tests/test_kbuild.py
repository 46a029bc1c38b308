# SPDX-License-Identifier: GPL-2.0-only
"""Building kernels, as far as it goes without one: series, configuration, trees, messages."""

from __future__ import annotations

import base64
import io
import itertools
import os
import quopri
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from virtme import architectures
from virtme.commands import configkernel

from harness import apt, host_packages, kbuild
from harness.errors import BuildError, ResourceError, UsageError
from harness.kbuild import cache, compile, config, debsource, visible
from harness.kbuild.gitrun import GitError
from harness.kbuild.series import Patch, load_series
from harness.kbuild.tree import KernelTree, PatchError

SERIES = Path(__file__).parent / "data" / "series"

FILE = "".join(f"line {number}\n" for number in range(1, 61))
DIFF = b"""diff --git a/kvm/file.c b/kvm/file.c
--- a/kvm/file.c
+++ b/kvm/file.c
@@ -1,4 +1,5 @@
 line 1
+new
 line 2
 line 3
 line 4
@@ -40,4 +41,4 @@ line 39
 line 40
-line 41
+line forty-one
 line 42
 line 43
"""
MAIL = b"""From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A Developer <developer@example.org>
Subject: [PATCH %d/2] KVM: change
 a line

Why.
---
%s--
2.39

"""


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    path = tmp_path / "linux-source.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name, content, mode in (
            ("kvm/file.c", FILE, 0o644),
            ("kvm/other.c", "other\n", 0o644),
            ("scripts/run me.sh", "#!/bin/sh\n", 0o755),
            (".gitignore", "/*\n", 0o644),
            ("empty", "", 0o644),
        ):
            member = tarfile.TarInfo(f"linux-source/{name}")
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content.encode()))
        link = tarfile.TarInfo("linux-source/link")
        link.type, link.linkname = tarfile.SYMTYPE, "kvm/file.c"
        archive.addfile(link)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> KernelTree:
    return KernelTree(tmp_path / "tree")


@pytest.fixture
def base(tree: KernelTree, tarball: Path) -> str:
    return tree.import_tarball(tarball, "refs/snptest/base/one")


def test_import_gives_what_git_add_gives(
    tree: KernelTree, base: str, tarball: Path, tmp_path: Path
) -> None:
    """Also what the source's own .gitignore would hide."""
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path)
    other = KernelTree(tmp_path / "linux-source")
    other.git("add", "--all", "--force")
    assert tree.tree_of(base) == other.git("write-tree")


def test_import_is_reproducible_and_known_by_name(
    tree: KernelTree, base: str, tarball: Path
) -> None:
    assert tree.import_tarball(tarball, "refs/snptest/base/two") == base
    assert tree.commit_of("refs/snptest/base/two") == base
    assert tree.commit_of("refs/snptest/base/three") is None


def test_a_damaged_tarball_leaves_nothing_behind(tree: KernelTree, tarball: Path) -> None:
    tarball.write_bytes(tarball.read_bytes()[:-40])
    with pytest.raises(GitError, match=r"linux-source\.tar\.xz"):
        tree.import_tarball(tarball, "refs/snptest/base/bad")
    assert tree.commit_of("refs/snptest/base/bad") is None


def test_checkout_touches_only_what_differs(tree: KernelTree, base: str) -> None:
    """Time stamps are what make goes by."""
    changed = tree.apply(base, [("one.patch", DIFF)])
    tree.checkout(base)
    before = {name: (tree.path / name).stat().st_mtime_ns for name in ("kvm/file.c", "kvm/other.c")}
    time.sleep(0.02)
    tree.checkout(changed)
    after = {name: (tree.path / name).stat().st_mtime_ns for name in before}
    assert [name for name in before if before[name] != after[name]] == ["kvm/file.c"]
    assert "line forty-one" in (tree.path / "kvm/file.c").read_text()
    assert os.access(tree.path / "scripts/run me.sh", os.X_OK)


def test_a_series_is_one_commit_a_patch_and_reproducible(tree: KernelTree, base: str) -> None:
    second = DIFF.replace(b"line forty-one", b"LINE 41").replace(b"-line 41", b"-line forty-one")
    second = second[: second.index(b"@@ -1,4")] + second[second.index(b"@@ -40") :]
    patches = [("1.patch", DIFF), ("2.patch", second)]
    commit = tree.apply(base, patches)
    assert commit == tree.apply(base, patches)
    log = tree.git("log", "--format=%s", commit).splitlines()
    assert log == ["2.patch", "1.patch", "linux-source.tar.xz"]


def test_a_patch_that_fails_names_itself_file_and_hunk(tree: KernelTree, base: str) -> None:
    bad = DIFF.replace(b"-line 41", b"-line 4711")
    patches = [Patch("0001-good.patch", DIFF.replace(b"+new", b"+newer")), Patch("0002-bad", bad)]
    with pytest.raises(BuildError) as caught:
        kbuild.apply_series(tree, base, [patches[1]])
    text = "0002-bad does not apply: kvm/file.c, hunk 2 of 2 (@@ -40,4 +41,4 @@ line 39)"
    assert caught.value.message == text
    with pytest.raises(PatchError, match=r"^0002-bad does not apply: kvm/file\.c, hunk 1 of 2"):
        tree.apply(base, [(patch.name, patch.diff) for patch in patches])


@pytest.mark.parametrize(
    ("diff", "complaint"),
    [
        (DIFF.replace(b"kvm/file.c", b"kvm/gone.c"), "kvm/gone.c: does not exist in index"),
        (DIFF[: DIFF.rindex(b" line 42")], "is damaged: corrupt patch at line"),
    ],
)
def test_other_ways_a_patch_fails_are_told(
    tree: KernelTree, base: str, diff: bytes, complaint: str
) -> None:
    with pytest.raises(PatchError, match=complaint):
        tree.apply(base, [("0003-odd.patch", diff)])


def test_directory_of_patches_is_in_order_without_its_cover_letter(tmp_path: Path) -> None:
    for name in ("0002-b.patch", "0010-c.patch", "0001-a.patch"):
        (tmp_path / name).write_bytes(DIFF)
    (tmp_path / "0000-cover-letter.patch").write_text("From: A <a@example.org>\n\nBlurb\n")
    (tmp_path / "notes.txt").write_text("not a patch")
    names = [patch.name for patch in load_series(tmp_path)]
    assert names == ["0001-a.patch", "0002-b.patch", "0010-c.patch"]


def test_quilt_series_rules_the_order(tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    for name in ("a.patch", "b.patch", "left-out.patch"):
        (tmp_path / "patches" / name).write_bytes(DIFF)
    listing = tmp_path / "patches" / "series"
    listing.write_text("# first\nb.patch -p1\n\na.patch # why\n")
    assert [patch.name for patch in load_series(tmp_path)] == ["b.patch", "a.patch"]
    listing.write_text("a.patch -R\n")
    with pytest.raises(UsageError, match="series:1: option -R") as caught:
        load_series(tmp_path)
    assert "-p0" in caught.value.hint
    listing.write_text("\ngone.patch\n")
    with pytest.raises(UsageError, match=r"series:2: gone\.patch is not there"):
        load_series(tmp_path)


def test_mbox_gives_each_mail_its_patch(tree: KernelTree, base: str, tmp_path: Path) -> None:
    cover = MAIL.replace(b"%d/2", b"0/2").replace(b"%s", b" 1 file changed\n")
    again = DIFF.replace(b"+new\n", b"+newer\n").replace(b" line 1\n", b" line 1\n new\n", 1)
    again = again[: again.index(b"@@ -40")].replace(b"@@ -1,4 +1,5 @@", b"@@ -1,5 +1,6 @@")
    path = tmp_path / "series.mbox"
    path.write_bytes(cover + MAIL % (1, DIFF) + MAIL % (2, again))
    patches = load_series(path)
    assert [patch.name for patch in patches] == [
        "series.mbox: mail 2: [PATCH 1/2] KVM: change a line",
        "series.mbox: mail 3: [PATCH 2/2] KVM: change a line",
    ]
    tree.checkout(kbuild.apply_series(tree, base, patches))
    assert (tree.path / "kvm/file.c").read_text().startswith("line 1\nnew\nnewer\nline 2\n")


def test_transfer_encodings_are_undone(tree: KernelTree, base: str, tmp_path: Path) -> None:
    diff = DIFF.replace(b"+new", "+n\u00e9w = 1".encode())
    head = b"From: A <a@example.org>\nSubject: x\nContent-Transfer-Encoding: %s\n\n"
    for name, body in (
        (b"base64", base64.encodebytes(diff).replace(b"\n", b"\r\n")),
        (b"quoted-printable", quopri.encodestring(diff)),
    ):
        (tmp_path / "one.patch").write_bytes(head % name + body)
        tree.apply(base, [(each.name, each.diff) for each in load_series(tmp_path / "one.patch")])


def test_what_is_no_series_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_series(tmp_path / "gone")
    with pytest.raises(UsageError, match="holds no patch"):
        load_series(tmp_path)
    (tmp_path / "1.patch").write_text("nothing of use")
    with pytest.raises(UsageError, match=r"1\.patch holds no diff"):
        load_series(tmp_path)


@pytest.mark.parametrize("name", config.fragment_names())
def test_our_fragments_give_a_reason_for_every_symbol(name: str) -> None:
    symbols = config.read_fragment(config.find_fragments([name])[-1].text)
    assert symbols
    assert [symbol.name for symbol in symbols if not symbol.why] == []
    for symbol, other in itertools.combinations(symbols, 2):
        # Once in each version: stable trees may have got later what a release begins with.
        apart = symbol.until < other.since or other.until < symbol.since
        assert symbol.name != other.name or apart


def test_a_symbol_that_did_not_take_is_told_with_the_reason() -> None:
    wanted = config.read_fragment(
        "# Title\n\n# SEV-SNP needs\n# the PSP.\nCONFIG_PSP=y\nCONFIG_KVM=m\n"
        "# No mitigations.\n# CONFIG_MITIGATE is not set\n"
    )
    config.check_config(wanted, "CONFIG_PSP=y\nCONFIG_KVM=m\n# CONFIG_MITIGATE is not set\n")
    with pytest.raises(BuildError) as caught:
        config.check_config(wanted, "# CONFIG_PSP is not set\nCONFIG_KVM=y\nCONFIG_MITIGATE=y\n")
    for part in (
        "CONFIG_PSP=y did not take (it is n): SEV-SNP needs the PSP.",
        "CONFIG_KVM=m did not take (it is y): SEV-SNP needs the PSP.",
        "CONFIG_MITIGATE=n did not take (it is y): No mitigations.",
    ):
        assert part in caught.value.message


def test_what_virtme_ng_asks_for_is_there_or_left_out_for_a_reason() -> None:
    """Its required symbols; the optional ones are graphics, sound and BPF."""
    text = config.find_fragments(())[0].text
    ours = {symbol.name: symbol.value for symbol in config.read_fragment(text)}
    without = config.left_out(text)
    theirs = [*configkernel._GENERIC_CONFIG, *architectures.get("x86_64").config_base()]
    asked = dict(line.split("#")[0].strip().split("=") for line in theirs if "=" in line)
    asked.pop("CONFIG_VIRTIO")  # has no prompt: VIRTIO_PCI selects it
    on = {name for name, value in asked.items() if value == "y"}
    assert len(on) > 40
    assert sorted(on - ours.keys() - without) == []
    listed = {name for asked, follow in visible.read_lists().values() for name in asked | follow}
    assert sorted(without - on - listed) == []
    assert sorted(without & ours.keys()) == []
    for name in asked.keys() - on:  # allnoconfig leaves them off
        assert name not in ours


def test_symbols_are_limited_to_versions() -> None:
    fragment = config.Fragment(
        "x",
        "# Why.\nCONFIG_A=y\n# until 7.2\nCONFIG_B=y\nCONFIG_C=y\n# since 6.16\nCONFIG_D=y\n"
        "\n# Why.\n# since 6.12 until 6.14\n# CONFIG_E is not set\n\nCONFIG_F=y\n",
    )

    def names(major: int, minor: int) -> str:
        symbols = config.wanted_symbols([fragment], (major, minor, 7))
        return "".join(symbol.name.removeprefix("CONFIG_") for symbol in symbols)

    assert [names(6, 11), names(6, 12), names(6, 14)] == ["ABCF", "ABCEF", "ABCEF"]
    assert [names(6, 16), names(7, 2), names(7, 3)] == ["ABCDF", "ABCDF", "ADF"]
    assert {symbol.why for symbol in config.read_fragment(fragment.text)} == {"Why.", ""}


def test_symbols_are_limited_to_point_releases() -> None:
    """What stable trees got later: all of 6.12 from 6.12.37 on, and everything from 6.16 on."""
    fragment = config.Fragment(
        "x",
        "# Why.\nCONFIG_A=y\n# since 6.12.37 until 6.12\nCONFIG_B=y\n# since 6.16\nCONFIG_B=y\n"
        "# until 6.12.4\nCONFIG_C=y\n",
    )

    def names(*release: int) -> str:
        symbols = config.wanted_symbols([fragment], release)
        return "".join(symbol.name.removeprefix("CONFIG_") for symbol in symbols)

    assert [names(6, 12, 0), names(6, 12, 4), names(6, 12, 5)] == ["AC", "AC", "A"]
    assert [names(6, 12, 36), names(6, 12, 37), names(6, 12, 400)] == ["A", "AB", "AB"]
    assert [names(6, 13, 0), names(6, 15, 99), names(6, 16, 0)] == ["A", "A", "AB"]
    assert names(7, 0, 0) == "AB"


def test_fragments_are_ours_or_files(tmp_path: Path) -> None:
    assert [each.name for each in config.find_fragments(())] == ["base"]
    mine = tmp_path / "mine.config"
    mine.write_text("# More CPUs.\nCONFIG_NR_CPUS=512\n# CONFIG_SMP is not set\n")
    found = config.find_fragments(["selftest", str(mine), "base"])
    assert [each.name.partition("-")[0] for each in found] == ["base", "selftest", "mine"]
    other = tmp_path / "other" / "mine.config"
    other.parent.mkdir()
    other.write_text(mine.read_text())
    assert config.find_fragments([str(other)])[-1].name != found[-1].name
    wanted = {each.name: each.value for each in config.wanted_symbols(found, (6, 12, 0))}
    assert (wanted["CONFIG_NR_CPUS"], wanted["CONFIG_SMP"]) == ("512", "n")
    with pytest.raises(UsageError, match=r"--config gone: No such file"):
        config.find_fragments(["gone"])
    mine.write_text("NR_CPUS=512\n")
    with pytest.raises(UsageError, match=r'line 1 is "NR_CPUS=512"; want CONFIG_NR_CPUS=512, '):
        config.find_fragments([str(mine)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# why\nCONFIG_A\n", "line 2 is .CONFIG_A.; want CONFIG_NAME=value"),
        ("CONFIG_A = y\n", "line 1 is .CONFIG_A = y.; want CONFIG_A=y"),
        ("config_a=y\n", "line 1 is .config_a=y.; want CONFIG_A=y,"),
        ("A=y\n", "line 1 is .A=y.; want CONFIG_A=y"),
        ("CONFIG_A=y\n\nCONFIG_A=m\n", "line 3 sets CONFIG_A to .m., a line before it to .y."),
        (b"CONFIG_A=\xff\n", "has the byte 0xff; want UTF-8"),
    ],
)
def test_what_is_wrong_in_a_fragment_is_told_by_line(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    mine = tmp_path / "mine.config"
    mine.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=said) as caught:
        config.find_fragments([str(mine)])
    assert str(mine) in caught.value.message


def test_a_fragment_may_have_a_value_for_each_version(tmp_path: Path) -> None:
    mine = tmp_path / "mine.config"
    text = "# until 6.12\nCONFIG_A=y\n\n# since 6.13\nCONFIG_A=m\n\nCONFIG_B=y\r\nCONFIG_B=y\n"
    mine.write_bytes(text.encode())
    assert config.find_fragments([str(mine)])
    with pytest.raises(UsageError, match=r"did you mean debug\?"):
        config.find_fragments(["debg"])
    with pytest.raises(UsageError, match="Is a directory"):
        config.find_fragments([str(tmp_path)])


def test_modules_know_what_they_depend_on(tmp_path: Path) -> None:
    module = tmp_path / "kvm-amd.ko"
    module.write_bytes(b"\x7fELF\0license=GPL\0depends=kvm,ccp\0name=kvm_amd\0")
    assert compile.depends(module) == {"kvm", "ccp"}
    module.write_bytes(b"\x7fELF\0depends=\0")
    assert compile.depends(module) == set()


def test_a_failing_make_is_a_build_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host_packages.ensure_packages(["make"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "Makefile").write_text(
        "bzImage modules:\n\t@echo '  CC      ok.o'\n\t@echo 'x.c:1:2: error: no'; exit 1\n"
    )
    make = compile.Compiler(source, tmp_path / "objects")
    log = tmp_path / "build.log"
    with pytest.raises(
        BuildError, match=r"^the kernel did not build: x\.c:1:2: error: no"
    ) as caught:
        make.build(log, kbuild.Progress())
    kept = Path(caught.value.hint.removeprefix("all of it: "))
    log.write_text("of the next build")
    assert "ok.o" in kept.read_text()


def test_logs_of_failed_builds_are_kept_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = tmp_path / "log"
    kept = []
    for number in range(compile.KEPT_LOGS + 3):
        log.write_text(f"{number}\n")
        kept.append(compile.keep_log(log))
        os.utime(kept[-1], (number, number))
    there = [each for each in kept if each.exists()]
    assert there == kept[3:]


def test_a_make_that_lacks_memory_is_no_fault_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning above, which is no error, is not blamed either."""
    host_packages.ensure_packages(["make"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "Makefile").write_text(
        "bzImage modules:\n\t@echo 'x.c:1:2: warning: odd'; kill -9 $$$$\n"
    )
    make = compile.Compiler(source, tmp_path / "objects")
    with pytest.raises(ResourceError, match=r"not its fault: .*Killed") as caught:
        make.build(tmp_path / "build.log", kbuild.Progress())
    assert "memory" in caught.value.hint


OFFERED = ["6.12.117-1~deb12u1", "6.12.107-1~deb12u1", "6.12.10-1"]
BY_SUITES = {
    "linux-source-6.12": ["6.12.120-1"],
    "linux-source-7.9": ["7.9.4-1"],
    "linux-source-7.10": ["7.10.2-1", "7.10.1-1~bpo13+1"],
}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What apt offers, without apt: the machine's sources have 6.12 only."""

    def system(package: str) -> list[str]:
        return OFFERED if package == "linux-source-6.12" else []

    suites = apt.Apt()

    def names(self: apt.Apt, prefix: str) -> list[str]:
        known = BY_SUITES if self is suites else ["linux-source-6.12"]
        return [name for name in known if name.startswith(prefix)]

    monkeypatch.setattr(apt.Apt, "names", names)
    monkeypatch.setattr(apt, "suites", lambda refresh=False: suites)
    monkeypatch.setattr(apt, "mirror", lambda: "the mirror")
    monkeypatch.setattr(apt, "system", apt.Apt)
    monkeypatch.setattr(debsource, "offered", system)
    monkeypatch.setattr(
        debsource, "offered_by_suites", lambda package, refresh=False: BY_SUITES.get(package, [])
    )


@pytest.mark.parametrize(
    ("base", "version"),
    [
        ("linux-source-6.12", "6.12.117-1~deb12u1"),
        ("linux-source-6.12=6.12.107", "6.12.107-1~deb12u1"),
        ("linux-source-6.12=6.12.10", "6.12.10-1"),
        ("linux-source-6.12=6.12.107-1~deb12u1", "6.12.107-1~deb12u1"),
        # The machine's own sources first, then the suites; x is the highest minor.
        ("linux-source-6.12=6.12.120", "6.12.120-1"),
        ("linux-source-7.9", "7.9.4-1"),
        ("linux-source-7.10=7.10.1", "7.10.1-1~bpo13+1"),
        ("linux-source-7.x", "7.10.2-1"),
    ],
)
def test_bases_resolve_to_versions(base: str, version: str, offered: None) -> None:
    assert debsource.resolve(base).version == version


def test_bases_that_are_not_there_are_told(offered: None) -> None:
    with pytest.raises(UsageError, match=r"it has: 6\.12\.120-1, 6\.12\.117"):
        debsource.resolve("linux-source-6.12=6.12.1")
    with pytest.raises(UsageError, match=r"apt offers no linux-source-6\.13"):
        debsource.resolve("linux-source-6.13")
    with pytest.raises(UsageError, match=r"apt offers no linux-source-5\.x"):
        debsource.resolve("linux-source-5.x")
    for base in ("linux", "linux-source-6.12=", "--linux-source-6.12", "linux-source-6.12=a b"):
        with pytest.raises(UsageError, match="not a kernel source package"):
            debsource.resolve(base)


def test_our_suites_are_asked_with_a_state_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(apt, "mirror", lambda: "http://mirror.example/debian/")
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").is_file():
        pytest.skip("no Debian: its keyring is missing")
    ran = []

    def run(command: list[str], *_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(apt, "run", run)
    for refresh in (False, True):  # the lists are not older than a day
        suites = apt.suites(refresh)
    assert suites is not None
    assert [command[-2:] for command in ran] == [["update", "-q"]]
    # Nothing of the system's is left in force, and nothing but our suites is asked.
    values = dict(word.split("=", 1) for word in suites.options if "=" in word)
    for key in ("Dir::State", "Dir::Cache", "Dir::Etc::sourcelist", "Dir::Etc::sourceparts"):
        assert values[key].startswith(str(tmp_path)), key
    lines = Path(values["Dir::Etc::sourcelist"]).read_text().splitlines()
    assert lines
    assert all("signed-by=/" in each and "mirror.example" in each for each in lines)
    assert "://" not in apt.SOURCES.read_text()
    assert suites.offered("bash") == []  # kernel sources only


def test_versions_are_sorted_as_debian_does() -> None:
    versions = ["7.2.9-1~bpo13+1", "7.2.13-1", "7.2.9-1", "7.2.13-1", "7.10.1-1"]
    assert apt.sort_versions(versions) == ["7.10.1-1", "7.2.13-1", "7.2.9-1", "7.2.9-1~bpo13+1"]


def test_kernels_that_were_not_built_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kbuild.list_kernels() == []
    for name in ("mine", "../mine", ""):
        with pytest.raises(UsageError, match="known: none was built yet"):
            kbuild.get(name)
    with pytest.raises(UsageError, match="cannot name a kernel"):
        kbuild.build("../mine", "linux-source-6.12")


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    cache.write_json(path, {"a": 1})
    assert cache.read_json(path) == {"a": 1}
    path.write_text('{"a": ')
    assert cache.read_json(path) is None
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_missing_packages_are_found() -> None:
    names = ["libc6", "snptest-no-such-package"]
    assert host_packages.missing_packages(names) == ["snptest-no-such-package"]


def test_our_series_is_well_formed() -> None:
    patches = load_series(SERIES)
    assert len(patches) == 2
    for patch in patches:
        done = subprocess.run(
            ["git", "apply", "--numstat", "-"], input=patch.diff, capture_output=True, check=True
        )
        assert b"virt/kvm/guest_memfd.c" in done.stdout
