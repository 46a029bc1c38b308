# SPDX-License-Identifier: GPL-2.0-only
"""`snptest machine build`: sources, patches, keys, errors; and one real QEMU."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from harness import apt, host_packages
from harness.errors import BuildError, UsageError
from harness.kbuild.progress import Progress
from harness.kbuild.tree import SourceTree
from harness.machine import build as building
from harness.machine import cli, compile, installed, patches, roms
from harness.machine.source import Sources
from tests.marks import real_test
from tests.mutants.mutant import ROOT

FILES = {
    "VERSION": "10.0.99\n",
    "target/i386/cpu.c": "one\ntwo\nthree\n",
    "meson.build": "if x\n  unpack_edk2_blobs = bzip2.found()\nendif\n",
    "Makefile": "",
    "Kconfig": "",
}
PATCH = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: snptest <snptest@localhost>
Subject: [PATCH {number}/2] target/i386: {old} is {new}

Why.
---
diff --git a/target/i386/cpu.c b/target/i386/cpu.c
--- a/target/i386/cpu.c
+++ b/target/i386/cpu.c
@@ -1,3 +1,3 @@
 one
-{old}
+{new}
 three
"""
DESCRIPTION = """\
series = "10.0"
package = "qemu"
keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
[[suite]]
name = "trixie"
component = "main"
type = "deb-src"
packages = ["qemu"]
[[tarball]]
url = "{url}"
sha256 = "{digest}"
"""
OFFERED = ["1:10.2.1+ds-1", "1:10.0.13+ds-0+deb13u1", "1:10.0.2+ds-2", "1:7.2+dfsg-7"]


def write_tarball(path: Path, files: dict[str, str] = FILES) -> str:
    """Write a source tarball; return its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"qemu-10.0.99/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceTree:
    host_packages.ensure_packages(["git"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return SourceTree(installed.home() / "source")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sources(tmp_path: Path, tree: SourceTree, said: list[str]) -> Sources:
    """Sources whose tarball is a file on this machine."""
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    digest = write_tarball(tarball)
    return described(tmp_path, tree, said, tarball.as_uri(), digest)


def described(tmp_path: Path, tree: SourceTree, said: list[str], url: str, digest: str) -> Sources:
    description = tmp_path / "source.toml"
    description.write_text(DESCRIPTION.format(url=url, digest=digest))
    return Sources(tree, Progress(), said.append, description)


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose apt offers no QEMU."""
    monkeypatch.setattr(apt, "mirror", lambda: "the mirror")
    monkeypatch.setattr(apt, "suites", lambda refresh=False, sources=None: None)
    monkeypatch.setattr(apt.Apt, "offered_sources", lambda self, package: [])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_apt: None) -> list[str]:
    """A system whose apt offers four; the list says what was downloaded."""
    downloaded: list[str] = []

    def download(self: apt.Apt, package: str, version: str, folder: Path) -> Path:
        downloaded.append(version)
        write_tarball(folder / "qemu.orig.tar.gz", {**FILES, "VERSION": "10.0.13\n"})
        return folder / "qemu.orig.tar.gz"

    monkeypatch.setattr(apt.Apt, "offered_sources", lambda self, package: OFFERED)
    monkeypatch.setattr(apt.Apt, "download_source", download)
    return downloaded


def test_the_package_is_the_first_choice(sources: Sources, package: list[str]) -> None:
    """The newest of the series, not the newest there is; downloaded once."""
    for _ in range(2):
        source = sources.take()
        assert source.name == "qemu=1:10.0.13+ds-0+deb13u1"
        assert source.version == "10.0.13"
        assert "signed lists" in source.checked
    assert package == ["1:10.0.13+ds-0+deb13u1"]


def test_a_newer_package_is_taken_when_asked_for(
    sources: Sources, package: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.take()
    newer = ["1:10.0.14+ds-0+deb13u1", *OFFERED]
    monkeypatch.setattr(apt.Apt, "offered_sources", lambda self, package: newer)
    assert sources.take().name == "qemu=1:10.0.13+ds-0+deb13u1"
    assert sources.take(refresh=True).name == "qemu=1:10.0.14+ds-0+deb13u1"
    assert sources.take().name == "qemu=1:10.0.14+ds-0+deb13u1"


def test_the_tarball_is_the_second_choice(sources: Sources, said: list[str], no_apt: None) -> None:
    source = sources.take()
    assert source.name == "qemu-10.0.99.tar.gz"
    assert source.checked.startswith("sha256 ")
    assert "apt offers no qemu 10.0" in said[0]


def test_a_tarball_with_another_hash_is_not_used(
    tmp_path: Path, tree: SourceTree, said: list[str], no_apt: None
) -> None:
    tarball = tmp_path / "qemu.tar.gz"
    digest = write_tarball(tarball)
    wrong = described(tmp_path, tree, said, tarball.as_uri(), "0" * 64)
    with pytest.raises(BuildError, match=f"sha256 {digest}, not 0000.*: not used"):
        wrong.take()
    assert tree.git("for-each-ref") == ""
    assert not list(installed.home().glob(".download-*"))


def test_a_tarball_of_the_users_is_compared_too(
    tmp_path: Path, sources: Sources, said: list[str]
) -> None:
    known = sources.take(tmp_path / "qemu-10.0.99.tar.gz")
    assert known.checked.startswith("sha256 ")
    write_tarball(tmp_path / "own.tar.gz", {**FILES, "VERSION": "11.0.0\n"})
    own = sources.take(tmp_path / "own.tar.gz")
    assert own.checked.startswith("nothing: sha256 ")
    assert "own.tar.gz is QEMU 11.0.0; the patches are made for 10.0.x" in said[-1]


def test_a_directory_is_taken_as_it_is(tmp_path: Path, sources: Sources, tree: SourceTree) -> None:
    for name, content in FILES.items():
        file = tmp_path / "work" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    first = sources.take(tmp_path / "work")
    assert sources.take(tmp_path / "work").commit == first.commit
    (tmp_path / "work/target/i386/cpu.c").write_text("edited\n")
    second = sources.take(tmp_path / "work")
    assert tree.git("show", f"{second.commit}:target/i386/cpu.c") == "edited"


def test_what_is_no_qemu_is_refused(tmp_path: Path, sources: Sources, tree: SourceTree) -> None:
    write_tarball(tmp_path / "linux.tar.gz", {"Makefile": "VERSION = 6\n"})
    (tmp_path / "notes.txt").write_text("x")
    for name, why in (
        ("linux.tar.gz", "holds no QEMU sources"),
        ("nothing", "no such file"),
        ("notes.txt", "not a tarball"),
        (".", "no QEMU sources are there"),
    ):
        with pytest.raises(UsageError, match=why):
            sources.take(tmp_path / name)
    assert tree.git("for-each-ref") == ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patches, the second on top of the first."""
    folder = tmp_path / "patches"
    folder.mkdir()
    for number, old, new in ((1, "two", "2"), (2, "2", "II")):
        text = PATCH.format(number=number, old=old, new=new)
        (folder / f"000{number}-cpu.patch").write_text(text)
    return folder


def test_patches_are_applied_in_order(
    tmp_path: Path, sources: Sources, tree: SourceTree, folder: Path
) -> None:
    source = sources.take(tmp_path / "qemu-10.0.99.tar.gz")
    series = patches.load(folder)
    assert [each.subject for each in series] == ["target/i386: two is 2", "target/i386: 2 is II"]
    commit = patches.apply(tree, source.commit, series, source.version)
    assert tree.git("show", f"{commit}:target/i386/cpu.c") == "one\nII\nthree"
    assert patches.load(tmp_path / "none") == []


def test_a_patch_that_does_not_apply_names_itself_file_and_hunk(
    tmp_path: Path, sources: Sources, tree: SourceTree, folder: Path
) -> None:
    source = sources.take(tmp_path / "qemu-10.0.99.tar.gz")
    text = PATCH.format(number=2, old="four", new="4")
    (folder / "0002-cpu.patch").write_text(text)
    expected = (
        r"0002-cpu\.patch does not apply: target/i386/cpu\.c, "
        r"hunk 1 of 1 \(@@ -1,3 \+1,3 @@\) \(QEMU 10\.0\.99\)"
    )
    with pytest.raises(BuildError, match=expected):
        patches.apply(tree, source.commit, patches.load(folder), source.version)


def test_a_stripped_tree_is_prepared(tmp_path: Path, sources: Sources, tree: SourceTree) -> None:
    """Debian's tarball has no firmware to unpack; upstream's is left as it is."""
    source = sources.take(tmp_path / "qemu-10.0.99.tar.gz")
    commit = patches.prepare(tree, source.commit)
    assert "unpack_edk2_blobs = false" in tree.git("show", f"{commit}:meson.build")
    assert tree.changed_files(source.commit, commit) == ["meson.build"]
    write_tarball(
        tmp_path / "whole.tar.gz", {**FILES, "pc-bios/edk2-x86_64-code.fd.bz2": "firmware"}
    )
    whole = sources.take(tmp_path / "whole.tar.gz")
    assert patches.prepare(tree, whole.commit) == whole.commit


def test_the_sources_own_roms_come_first(
    tmp_path: Path, sources: Sources, tree: SourceTree
) -> None:
    files = {f"pc-bios/{name}": f"rom {name}" for name in roms.ROMS}
    write_tarball(tmp_path / "whole.tar.gz", {**FILES, **files})
    found = roms.find(tree, sources.take(tmp_path / "whole.tar.gz").commit, print)
    assert found == {name: f"rom {name}".encode() for name in roms.ROMS}


def test_the_key_follows_content(folder: Path) -> None:
    """Patches, their order, sources, ROMs; not names, and not what a patch says of itself."""
    series = patches.load(folder)
    key = building.machine_key("tree", series, {"bios": b"1"})
    assert key == building.machine_key("tree", series, {"bios": b"1"})
    (folder / "0001-cpu.patch").rename(folder / "0001-renamed.patch")
    assert key == building.machine_key("tree", patches.load(folder), {"bios": b"1"})
    others = {
        building.machine_key("other", series, {"bios": b"1"}),
        building.machine_key("tree", series[::-1], {"bios": b"1"}),
        building.machine_key("tree", series[:1], {"bios": b"1"}),
        building.machine_key("tree", [], {"bios": b"1"}),
        building.machine_key("tree", series, {"bios": b"2"}),
    }
    assert len(others | {key}) == 6


def test_a_failed_step_names_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ninja's output, where the compiler's command stands between; and of configure's."""
    said = (
        "[1/3] Compiling C object a.o\n"
        "a.c:1:1: warning: odd\n"
        "FAILED: target_i386_cpu.c.o \n"
        "cc -Itarget -o x target_i386_cpu.c.o -c /q/source/cpu.c\n"
        "/q/source/cpu.c: In function 'f':\n"
        "/q/source/cpu.c:7:3: error: 'x' undeclared\n"
        "    7 |   x;\n"
        "[2/3] Compiling C object b.o\n"
        "b.c:1:1: error: another\n"
        "ninja: build stopped: subcommand failed.\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for text, reason in (
        (said, "cpu.c:7:3: error: 'x' undeclared"),
        ("checking\n\nERROR: glib-2.56 is required\nmore\n", "ERROR: glib-2.56 is required"),
        ("FAILED: x.o \ncc -c x.c\nit crashed\n", "FAILED: x.o"),
    ):
        log = tmp_path / "log"
        script = f"cat <<'END'\n{text}END\nexit 1"
        command = ["sh", "-c", script]
        with pytest.raises(BuildError) as caught:
            compile._run(command, tmp_path, Path("/q/source"), log, Progress(), 60)
        assert caught.value.headline == f"QEMU did not build: {reason}"
        assert caught.value.hint == f"all of it: {log}"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """A build whose compiler writes a script; the list says for which sources."""
    compiled: list[str] = []

    def compile_machine(
        source: Path, objects: Path, version: str, log: Path, progress: Progress
    ) -> Path:
        compiled.append((source / "target/i386/cpu.c").read_text().splitlines()[1])
        log.write_text("built\n")
        objects.mkdir(exist_ok=True)
        program = objects / installed.PROGRAM
        program.write_text("#!/bin/sh\necho '  x-snp-host=<bool>'\n")
        program.chmod(0o755)
        return program

    monkeypatch.setattr(building, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(building, "compile_machine", compile_machine)
    monkeypatch.setattr(roms, "find", lambda *_: {"bios-256k.bin": b"bios"})
    return compiled


def test_a_build_is_kept_by_content(tmp_path: Path, fake: list[str], folder: Path) -> None:
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)
    first = building.build(tarball, folder=folder, say=print)
    assert building.build(tarball, folder=folder, say=print) == first
    assert installed.find() == first
    assert first.snp
    assert [file for file, _ in first.patches] == ["0001-cpu.patch", "0002-cpu.patch"]
    assert (first.firmware / "bios-256k.bin").read_bytes() == b"bios"
    (folder / "0002-cpu.patch").unlink()
    second = building.build(tarball, folder=folder, say=print)
    assert installed.find() == second != first
    # Plain QEMU is another thing, and does not become the machine.
    plain = building.build(tarball, folder=None, say=print)
    assert plain.patches == ()
    assert installed.find() == second
    assert installed.find(installed.PLAIN) == plain
    assert fake == ["II", "2", "two"]


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, fake: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)

    def interrupted(_: Path) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "has_snp", interrupted)
        with pytest.raises(KeyboardInterrupt):
            building.build(tarball, folder=folder, say=print)
    assert installed.find() is None
    assert not list(installed.home().glob(".new-*"))
    assert building.build(tarball, folder=folder, say=print) == installed.find()


def test_what_a_killed_build_left_goes(tmp_path: Path, fake: list[str], folder: Path) -> None:
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)
    left = installed.home() / ".new-left"
    left.mkdir(parents=True)
    building.build(tarball, folder=folder, say=print)
    assert not left.exists()


def test_a_machine_that_is_not_whole_is_none(tmp_path: Path, fake: list[str], folder: Path) -> None:
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)
    machine = building.build(tarball, folder=folder, say=print)
    machine.qemu.unlink()
    assert installed.find() is None
    assert building.build(tarball, folder=folder, say=print).qemu.is_file()


def test_a_changed_series_makes_the_machine_stale(
    tmp_path: Path, fake: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)
    machine = building.build(tarball, folder=folder, say=print)
    original = patches.load
    monkeypatch.setattr(patches, "load", lambda: original(folder))
    assert not machine.stale
    (folder / "0002-cpu.patch").unlink()
    assert machine.stale


def test_info_tells_what_there_is(
    tmp_path: Path, fake: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.info()
    assert "not built yet" in capsys.readouterr().out
    tarball = tmp_path / "qemu-10.0.99.tar.gz"
    write_tarball(tarball)
    machine = building.build(tarball, folder=folder, say=print)
    cli.info()
    told = capsys.readouterr().out
    assert "QEMU 10.0.99 + 2 patches" in told
    assert "0002 target/i386: 2 is II" in told
    assert str(machine.qemu) in told
    for part, what in cli.modelled():
        assert f"{part}: {what}" in told
    assert cli.modelled(), "qemu/README.md has no table of what is modelled"


@real_test("builds QEMU", 3000)
def test_the_real_machine_builds_and_is_there_at_once_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the user's own cache, from the package or the tarball."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    first = subprocess.run(
        [sys.executable, "-m", "harness", "machine", "build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2900,
        check=False,
    )
    assert first.returncode == 0, first.stdout + first.stderr
    machine = installed.find()
    assert machine is not None
    version = subprocess.run(
        [machine.qemu, "-version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert f"version {machine.version}" in version
    began = time.monotonic()
    again = building.build(say=print)
    assert again == machine
    assert time.monotonic() - began < 1.0
