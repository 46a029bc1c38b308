# SPDX-License-Identifier: GPL-2.0-only
"""When our own modules are built again; that they work is tests/test_vng.py's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.kbuild import own

CONFIG = "CONFIG_KVM_AMD_SEV=y\n"


class Building:
    """A compiler that notes what it is asked for, and a tree that says what changed."""

    def __init__(self, folder: Path) -> None:
        self.objects = folder
        self.built = 0
        self.changed: list[str] | None = None

    def build_modules(self, folder: Path) -> None:
        self.built += 1
        assert (folder / "Kbuild").is_file()
        for source in folder.glob("*.c"):
            source.with_suffix(".ko").write_text(str(self.built))

    def __call__(self, commit: str, config: str = CONFIG) -> list[Path]:
        tree: Any = SimpleNamespace(changed_files=lambda _before, _after: self.changed)
        make: Any = self
        return own.build_own(make, tree, commit, config)


def test_built_once_for_edits_of_code(tmp_path: Path) -> None:
    building = Building(tmp_path)
    modules = building("one")
    assert [each.name for each in modules] == ["snptest_gmem.ko"]
    assert all(each.is_file() for each in modules)
    building.changed = ["arch/x86/kvm/svm/sev.c"]
    assert building("two") == modules
    assert building.built == 1


@pytest.mark.parametrize("changed", [["include/linux/fs.h", "a.c"], ["Makefile"], None])
def test_built_again_when_more_than_code_changes(tmp_path: Path, changed: list[str] | None) -> None:
    building = Building(tmp_path)
    building("one")
    building.changed = changed
    building("two")
    assert building.built == 2


def test_built_again_for_another_configuration_or_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = Building(tmp_path)
    building("one")
    building.changed = []
    building("one", f"{CONFIG}CONFIG_PREEMPT=y\n")
    assert building.built == 2
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "Kbuild").write_text("obj-m := other.o\n")
    (sources / "other.c").write_text("")
    before = own.sources_digest()
    monkeypatch.setattr(own, "SOURCES", sources)
    assert own.sources_digest() != before
    assert [each.name for each in building("one", f"{CONFIG}CONFIG_PREEMPT=y\n")] == ["other.ko"]
    assert building.built == 3


def test_nothing_is_built_without_sev(tmp_path: Path) -> None:
    building = Building(tmp_path)
    assert building("one", "# CONFIG_KVM_AMD_SEV is not set\n") == []
    assert building.built == 0
