# SPDX-License-Identifier: GPL-2.0-only
"""Building, from a base to what is kept, with a tree that only looks like a kernel."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness import host_packages, kbuild
from harness.errors import UsageError
from harness.kbuild import cache, cli, compile, config, debsource, estimate, kernel
from harness.kbuild.tree import KernelTree
from tests import fakekernel
from tests.fakekernel import git

BASE = debsource.DebianSource("linux-source-6.12", "6.12.7-1")


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    host_packages.ensure_packages(["make", "gcc", "binutils", "git"], "for a test")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a configuration that the tree can be built with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kbuild, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(debsource, "offered", lambda package: [BASE.version])
    return cache.root()


@pytest.fixture
def base(tmp_path: Path, home: Path) -> str:
    """The tree as a source package that was imported."""
    source = fakekernel.write_tree(tmp_path / "linux-source-6.12")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        archive.add(source, source.name)
    KernelTree(home / "linux").import_tarball(tmp_path / "source.tar", BASE.ref)
    return "linux-source-6.12"


def test_what_is_kept(base: str) -> None:
    built = kbuild.build("mine", base, fragments=["selftest"])
    assert built == kbuild.get("mine")
    assert (built.release, built.version) == ("6.12.7-fake", (6, 12, 7))
    assert built.fragments == ("base", "selftest")
    assert "CONFIG_LKDTM=m\n" in built.config.read_text()
    assert built.bzimage.is_file()
    assert built.decoder.stat().st_mode & 0o111
    # A boot must not load what only a test wants.
    assert built.modules == ("kvm.ko", "kvm-amd.ko")
    assert built.extra_modules == ("lkdtm.ko", "snptest_gmem.ko")
    for name in built.modules + built.extra_modules:
        assert b"debug_line" not in (built.directory / name).read_bytes()
        assert b"debug_line" in (built.debug_modules / name).read_bytes()
    assert built.size > sum(each.stat().st_size for each in built.debug_modules.iterdir())


def test_configurations_have_objects_of_their_own(base: str, home: Path) -> None:
    plain = kbuild.build("plain", base)
    other = kbuild.build("other", base, fragments=["selftest"])
    assert plain.key != other.key
    assert {each.name for each in (home / "build").iterdir()} == {
        "base-6.12",
        "base+selftest-6.12",
    }


def test_what_an_older_snptest_left_is_told_and_replaced(base: str) -> None:
    built = kbuild.build("mine", base)
    file = built.directory / "kernel.json"
    for content in ('{"release": "6.12.7", "modules": []}', "{", '{"format": 2}'):
        file.write_text(content)
        assert kbuild.list_kernels() == []
        assert kernel.stale_names() == ["mine"]
        with pytest.raises(UsageError, match="kernel mine are gone, or of an older snptest"):
            kbuild.get("mine")
    kernel.name_file("bad").write_text("[]")
    kernel.name_file("evil").write_text(json.dumps({"key": "../../.."}))
    assert kernel.stale_names() == ["bad", "evil", "mine"]
    assert kbuild.build("mine", base) == kbuild.get("mine")
    assert [each.name for each in kbuild.list_kernels()] == ["mine"]


def test_a_symbol_twice_counts_once(tmp_path: Path) -> None:
    mine = tmp_path / "mine.config"
    mine.write_text("CONFIG_NR_CPUS=512\n")
    wanted = config.wanted_symbols(config.find_fragments([str(mine)]), (6, 12, 7))
    lines = config.allconfig(wanted).splitlines()
    assert [each for each in lines if "NR_CPUS" in each] == ["CONFIG_NR_CPUS=512"]


def test_tools_for_traces_are_there() -> None:
    """The decoder calls these; binutils has them."""
    for tool in ("addr2line", "readelf", "nm"):
        subprocess.run([tool, "--version"], check=True, capture_output=True, timeout=60)


def test_versions_have_work_trees_of_their_own(home: Path, tmp_path: Path) -> None:
    """Going to another version and back gives no file a new time stamp."""
    source = fakekernel.write_tree(tmp_path / "source")
    tree = KernelTree(home / "linux")
    commits = []
    for minor in (12, 13):
        makefile = source / "Makefile"
        makefile.write_text(
            makefile.read_text().replace("PATCHLEVEL = 12", f"PATCHLEVEL = {minor}")
        )
        with tarfile.open(tmp_path / "source.tar", "w") as archive:
            archive.add(source, source.name)
        commits.append(tree.import_tarball(tmp_path / "source.tar", f"refs/snptest/base/{minor}"))
    folders = [tree.check_out_version(commit) for commit in commits]
    assert [each.name for each in folders] == ["linux", "linux-6.13"]
    stamp = (folders[0] / "Makefile").stat().st_mtime_ns
    shutil.rmtree(folders[1])
    assert tree.check_out_version(commits[1]) == folders[1]
    assert "PATCHLEVEL = 13" in (folders[1] / "Makefile").read_text()
    assert tree.check_out_version(commits[0]) == folders[0]
    assert (folders[0] / "Makefile").stat().st_mtime_ns == stamp


class Recorder(kbuild.Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.counts: list[tuple[int, int | None]] = []

    def stage(self, what: str) -> None:
        self.stages.append(what)

    def count(self, done: int, total: int | None = None) -> None:
        if self.stages[-1].endswith("compiling"):
            self.counts.append((done, total))


def test_an_edit_builds_what_depends_on_it(tmp_path: Path, home: Path) -> None:
    """From a directory as it is: nothing is configured again, one object is compiled."""
    source = fakekernel.write_tree(tmp_path / "work")
    first = kbuild.build("mine", str(source))
    assert first.source == str(source)
    cache.write_json(home / "build/base-6.12/snptest-steps.json", {"steps": 1000})
    (source / "drivers/kvm-amd.c").write_text(fakekernel.MODULE % ("kvm", "sev"))
    seen = Recorder()
    second = kbuild.build("mine", str(source), progress=seen)
    assert second.key != first.key
    assert seen.counts == [
        (1, 1 + 1 + estimate.ALWAYS + estimate.IMAGE)
    ]  # not the 1000 of a full build
    assert not any("configuring" in each for each in seen.stages)
    assert (second.directory / "kvm-amd.ko").read_bytes() != (
        first.directory / "kvm-amd.ko"
    ).read_bytes()
    # What is the same is there once.
    assert second.vmlinux.samefile(first.vmlinux)
    assert second.vmlinux.stat().st_nlink == 2
    again = Recorder()
    assert kbuild.build("mine", str(source), progress=again).key == second.key
    assert not any("compiling" in each for each in again.stages)
    (source / "Kconfig").write_text("# other\n")
    seen = Recorder()
    kbuild.build("mine", str(source), progress=seen)
    assert any("configuring" in each for each in seen.stages)


def test_what_a_killed_make_left_half_written_is_made_again(base: str, home: Path) -> None:
    built = kbuild.build("mine", base)
    objects = home / "build/base-6.12"
    assert not (objects / "snptest-running").exists()
    whole = (objects / "kvm.ko").read_bytes()
    for name in ("System.map", "kvm-amd.ko"):
        os.utime(objects / name, (1, 1))
    (objects / "kvm.ko").write_bytes(whole[:100])
    (objects / "snptest-running").touch()
    assert {each.name for each in compile.drop_unfinished(objects)} >= {"kvm.ko"}
    assert (objects / "kvm-amd.ko").exists()
    shutil.rmtree(built.directory)
    (objects / "kvm.ko").write_bytes(whole[:100])
    again = kbuild.build("mine", base)
    assert (again.debug_modules / "kvm.ko").read_bytes() == whole


def test_steps_left_are_counted_by_what_depends_on_a_change(tmp_path: Path) -> None:
    objects, source = tmp_path / "build" / "base", tmp_path / "linux"
    assert estimate.steps_left(objects, source, ["kvm/x.c"], []) is None
    for name, flags, needs in (
        ("kvm/svm/sev", "-DMODULE", ("kvm/svm/sev.c", "kvm/svm/svm.h")),
        ("kvm/svm/svm", "-DMODULE", ("kvm/svm/svm.c", "kvm/svm/svm.h")),
        ("mm/slub", "", ("mm/slub.c",)),
    ):
        file = objects / f"{Path(name).parent}/.{Path(name).name}.o.cmd"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"savedcmd := gcc {flags} -c\ndeps_{name}.o := \\\n"]
        lines += [f"  ../../linux/{each} \\\n" for each in needs]
        lines.append("    $(wildcard include/config/KASAN) \\\n")
        file.write_text("".join(lines))

    def left(*changed: str, symbols: tuple[str, ...] = ()) -> int | None:
        return estimate.steps_left(objects, source, changed, symbols)

    nothing, module = estimate.ALWAYS, estimate.MODULES + estimate.MODULE
    assert left() == nothing
    assert left("Documentation/x.rst", "kvm/svm/sev.h") == nothing
    assert left("kvm/svm/sev.c") == nothing + 1 + module  # 8, as a real one takes
    assert left("kvm/svm/svm.h") == nothing + 2 + module
    image = estimate.IMAGE + len(("mm", "the top"))
    assert left("mm/slub.c") == nothing + 1 + image
    many = [f"drivers/{number}.c" for number in range(estimate.FEW)]
    assert left("mm/slub.c", *many) == left("mm/slub.c")
    assert left(symbols=("CONFIG_KASAN",)) == nothing + 3 + module + image
    assert left(symbols=("CONFIG_KASA",)) == nothing


def series(path: Path, *numbers: int) -> Path:
    """A folder of patches, each of which sets KVM to the next number; 0 does not compile."""
    path.mkdir()
    before = "1"
    for position, number in enumerate(numbers, 1):
        after = str(number) if number else "1 +"
        (path / f"{position:04}-to-{number}.patch").write_text(
            "--- a/include/kvm.h\n+++ b/include/kvm.h\n@@ -1 +1 @@\n"
            f"-#define KVM {before}\n+#define KVM {after}\n"
        )
        before = after
    return path


def test_until_stops_after_a_patch(base: str, tmp_path: Path) -> None:
    patches = series(tmp_path / "patches", 2, 3, 4)
    for until in (0, 2, 3):
        built = kbuild.build("mine", base, patches, until=until)
        assert [name[:4] for name in built.series] == ["0001", "0002", "0003"][:until]
    for until in (4, -1):
        with pytest.raises(UsageError, match=f"--until {until}: the series has 3 patches"):
            kbuild.build("mine", base, patches, until=until)


def test_every_patch_is_built_in_turn(base: str, tmp_path: Path) -> None:
    patches = series(tmp_path / "patches", 2, 0, 4)
    results = list(kbuild.build_every("mine", base, patches))
    assert [(each.number, each.error is None) for each in results] == [(1, True), (2, False)]
    assert results[1].error is not None
    assert "drivers/kvm" in results[1].error
    assert [name[:4] for name in kbuild.get("mine").series] == ["0001"]
    results = list(kbuild.build_every("mine", base, patches, keep_going=True))
    assert [each.error is None for each in results] == [True, False, True]
    assert len(kbuild.get("mine").series) == 3
    assert len({each.patch for each in results}) == 3
    with pytest.raises(UsageError, match="needs a series"):
        next(kbuild.build_every("mine", base, None))


def test_every_ends_at_a_patch_that_does_not_apply(base: str, tmp_path: Path) -> None:
    patches = series(tmp_path / "patches", 2, 3, 4)
    (patches / "0002-to-3.patch").unlink()
    results = list(kbuild.build_every("mine", base, patches, keep_going=True))
    assert [each.error is None for each in results] == [True, False]
    assert str(results[1].error).startswith("0003-to-4.patch does not apply: include/kvm.h")


def test_what_the_command_prints(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patches = str(series(tmp_path / "patches", 2, 0))
    options = cli.BuildOptions("mine", base, series=[patches], every=True)
    assert cli.build(options) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["1", "0001-to-2.patch", "built"]
    assert "the kernel did not build" in lines[2]
    assert cli.build(cli.BuildOptions("mine", base, series=[patches], until=1)) == 0
    assert (
        "mine: Linux 6.12.7-fake, linux-source-6.12=6.12.7-1 + 1 patch" in capsys.readouterr().out
    )
    assert cli.kernels(as_json=False) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:6] == ["mine", "6.12.7-fake", str(BASE), "1", "patch", "base"]
    assert cli.kernels(as_json=True) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["name"], record["version"], record["config"]) == ("mine", "6.12.7", ["base"])
    with pytest.raises(UsageError, match="--keep-going"):
        cli.build(cli.BuildOptions("mine", base, keep_going=True))


def test_a_series_that_was_applied_is_not_applied_again(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for number in (1, 2):
        (series / f"{number}.patch").write_text(
            "From: Somebody Else <else@example.org>\n"
            f"Subject: [PATCH v2 {number}/2] KVM: value {number}\n\n"
            "From: A Developer <developer@example.org>\n\nBecause.\n---\n"
            "--- a/include/kvm.h\n+++ b/include/kvm.h\n@@ -1 +1 @@\n"
            f"-#define KVM {number}\n+#define KVM {number + 1}\n"
        )
    found = kbuild.applied(base, series)
    patches = [patch for _, patch in found if patch is not None]
    assert [patch.subject for patch in patches] == ["KVM: value 1", "KVM: value 2"]
    assert {patch.author for patch in patches} == {"A Developer <developer@example.org>"}
    assert "Because." in patches[0].message
    assert "+#define" not in patches[0].message
    again = kbuild.build("again", base, series, until=1)
    monkeypatch.setattr(KernelTree, "apply_each", None)
    commits = [commit for commit, _ in found]
    one, both = (
        kbuild.build("mine", base, series, until=until, commits=commits) for until in (1, None)
    )
    assert (one.key, one.commit) == (again.key, commits[1])
    assert (both.commit, both.series) == (commits[2], ("1.patch", "2.patch"))


def test_a_git_base_is_told_by_what_others_can_fetch(tmp_path: Path) -> None:
    """The base's commit, its https address if that has it, and KCIDB's hash of the series."""
    origin = fakekernel.write_tree(tmp_path / "origin")
    git(origin, "init", "-q")
    git(origin, "add", "--force", ".")
    git(origin, "commit", "-q", "-m", "base")
    git(origin, "tag", "v6.12")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    clone, url = tmp_path / "clone", "https://git.kernel.org/pub/scm/virt/kvm/kvm.git"
    (clone / "include/kvm.h").write_text("#define KVM 2\n")
    patch = tmp_path / "0001-x.patch"
    patch.write_text(git(clone, "diff") + "\n")
    git(clone, "commit", "-q", "-a", "-m", "own")
    for address, expected in (
        (url, url),
        ("git://git.kernel.org/pub/scm/virt/kvm/kvm.git", url),
        ("https://me:secret@example.org/linux.git", ""),
        (str(origin), ""),
    ):
        git(clone, "remote", "set-url", "origin", address)
        built = kbuild.build("mine", f"{clone}@v6.12", patch)
        assert built.base_commit == git(origin, "rev-parse", "v6.12")
        assert built.base_url == expected
    digest = hashlib.sha256(patch.read_bytes()).hexdigest()
    assert built.patchset == hashlib.sha256(f"{digest}\n".encode()).hexdigest()
    # What only this machine has cannot be fetched from there.
    git(clone, "remote", "set-url", "origin", url)
    own = kbuild.build("own", f"{clone}@main")
    assert (own.base_url, own.patchset) == ("", "")
    assert own.base_commit == git(clone, "rev-parse", "main")
    commits = [commit for commit, _ in kbuild.applied(f"{clone}@v6.12", patch)]
    known = kbuild.build("known", f"{clone}@v6.12", patch, commits=commits)
    assert (known.base_commit, known.base_url) == (built.base_commit, url)
    assert kbuild.build("work", str(origin)).base_commit == ""
