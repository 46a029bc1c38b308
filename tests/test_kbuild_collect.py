# SPDX-License-Identifier: GPL-2.0-only
"""Collecting kernels: what goes, what stays, and that what stays can be built on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import host_packages, kbuild
from harness.errors import UsageError
from harness.kbuild import cache, kernel
from harness.kbuild.collect import collect
from harness.kbuild.tree import KernelTree
from tests import fakekernel


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    host_packages.ensure_packages(["make", "gcc", "binutils", "git"], "for a test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kbuild, "ensure_packages", lambda *_: None)
    return cache.root()


@pytest.fixture
def three(tmp_path: Path) -> list[kbuild.KernelBuild]:
    """Kernels one, two, three, of three directories; three is of another version."""
    built = []
    for position, name in enumerate(("one", "two", "three")):
        source = fakekernel.write_tree(tmp_path / name)
        (source / "include/kvm.h").write_text(f"#define KVM {position}\n")
        if name == "three":
            makefile = source / "Makefile"
            makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 12", "PATCHLEVEL = 13"))
        built.append(kbuild.build(name, str(source)))
        dated(name, f"2026-01-0{position + 1}T00:00:00+00:00")
    return built


def dated(name: str, created: str) -> None:
    record = cache.read_json(kernel.name_file(name))
    assert record is not None
    cache.write_json(kernel.name_file(name), {**record, "created": created})


def names() -> list[str]:
    return sorted(each.name for each in kbuild.list_kernels())


def test_without_a_choice_only_what_has_no_name_goes(
    home: Path, three: list[kbuild.KernelBuild], tmp_path: Path
) -> None:
    (tmp_path / "one/include/kvm.h").write_text("#define KVM 99\n")
    newer = kbuild.build("one", str(tmp_path / "one"))
    left = home / "kernels" / ".new-left-by-a-killed-build"
    left.mkdir()
    gone = {item.what for item in collect()}
    assert {f"kernels/{three[0].key}", f"kernels/{left.name}"} <= gone
    assert not any(newer.key in what for what in gone)
    assert names() == ["one", "three", "two"]
    assert not three[0].directory.exists()
    assert newer.bzimage.is_file()
    assert collect() == []


def test_named_ones_go_with_all_that_only_they_needed(
    home: Path, three: list[kbuild.KernelBuild], tmp_path: Path
) -> None:
    tree = KernelTree(home / "linux")
    gone = {item.what for item in collect(["three"])}
    assert {f"kernels/{three[2].key}", "build/base-6.13", "work tree linux-6.13"} <= gone
    assert names() == ["one", "two"]
    assert [each.name for each in (home / "build").iterdir()] == ["base-6.12"]
    assert len([each for each in (home / "indexes").iterdir() if each.suffix == ""]) == 2
    assert tree.commit_of(three[2].commit) is None
    assert tree.commit_of(three[0].commit) == three[0].commit
    # What is left can be built on, and what went can be built again.
    assert kbuild.build("one", str(tmp_path / "one")).key == three[0].key
    assert kbuild.build("three", str(tmp_path / "three")).key == three[2].key
    with pytest.raises(UsageError, match="no kernel is called gone"):
        collect(["gone"])


def test_the_newest_stay(three: list[kbuild.KernelBuild]) -> None:
    collect(keep=2)
    assert names() == ["three", "two"]
    dated("two", "2099-01-01T00:00:00+00:00")
    collect(older=10)
    assert names() == ["two"]
    collect(keep=0)
    assert names() == []


def test_a_dry_run_removes_nothing(home: Path, three: list[kbuild.KernelBuild]) -> None:
    def content() -> list[tuple[str, int]]:
        return sorted(
            (str(path), path.lstat().st_size) for path in home.rglob("*") if path.is_file()
        )

    before = content()
    freed = collect(["one", "three"], dry_run=True)
    assert content() == before
    assert sum(item.size for item in freed) > 0
    real = {item.what for item in collect(["one", "three"])}
    assert {item.what for item in freed} <= real


def test_what_is_in_use_stays(three: list[kbuild.KernelBuild]) -> None:
    said: list[str] = []
    with three[0].in_use():
        collect(["one", "two"], say=said.append)
        assert names() == ["one", "three"]
        assert three[0].bzimage.is_file()
    assert said == ["one is in use and stays"]
    collect(["one"])
    assert names() == ["three"]
    with pytest.raises(UsageError, match="files of kernel one are gone"):
        with three[0].in_use():
            pass


def test_what_an_older_snptest_left_goes(home: Path, three: list[kbuild.KernelBuild]) -> None:
    (three[0].directory / "kernel.json").write_text('{"release": "6.12.0"}')
    (home / "names" / "odd.json").write_text("[]")
    gone = {item.what for item in collect()}
    assert {"name one", "name odd", f"kernels/{three[0].key}"} <= gone
    assert kernel.stale_names() == []
