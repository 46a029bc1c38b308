# SPDX-License-Identifier: GPL-2.0-only
"""Building, from a base to what is kept, with a tree that only looks like a kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness import host_packages, kbuild
from harness.errors import UsageError
from harness.kbuild import cache, config, debsource, kernel
from harness.kbuild.tree import KernelTree
from tests import fakekernel

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
    assert built.extra_modules == ("lkdtm.ko",)
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
    wanted = config.wanted_symbols(config.find_fragments([str(mine)]), (6, 12))
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
