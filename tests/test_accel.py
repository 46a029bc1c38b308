# SPDX-License-Identifier: GPL-2.0-only
"""A machine whose KVM cannot be used: everything is emulated, and that is said once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness import kbuild
from harness.cli import boot as command_boot
from harness.cli import run as command_run
from harness.console import make_console
from harness.vng import accel
from harness.vng.kinds import STOCK, Machine


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a KVM that works: files that stand for what is looked at."""
    (tmp_path / "kvm").touch()
    (tmp_path / "nested").write_text("1\n")
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(accel, "NESTED", tmp_path / "nested")
    return tmp_path


def test_with_kvm_nothing_is_said(host: Path) -> None:
    assert accel.slowness() is None
    (host / "nested").write_text("Y")
    assert accel.slowness() is None


def test_each_reason_is_told_with_what_it_costs(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "nested").write_text("0\n")
    assert "kvm_amd.nested is 0: its guests have no SVM; QEMU emulates" in (accel.slowness() or "")
    (host / "nested").unlink()
    assert "KVM is not kvm_amd" in (accel.slowness() or "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert accel.slowness() == (
        "without KVM: no permission to use /dev/kvm (adduser $USER kvm, then log in again); "
        "QEMU emulates the processor (TCG), 3 to 15 times slower"
    )
    (host / "kvm").unlink()
    assert (accel.slowness() or "").startswith("without KVM: there is no /dev/kvm; QEMU")
    assert not accel.accelerated(host / "bzImage")


class Boot:
    """`snptest boot`, as far as it comes before the boot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        monkeypatch.setattr(kbuild, "get", lambda _: self)
        monkeypatch.setattr(command_boot, "choose", lambda *_: machine)
        monkeypatch.setattr(command_boot, "run_in", lambda *_: 0)
        self.bzimage = Path("bzImage")

    def __call__(self) -> int:
        return command_boot.boot("mine", ["true"], None, "1G", 1, (), 60)


@pytest.mark.parametrize(
    ("machine", "terminal", "told"),
    [
        (STOCK, True, True),
        (STOCK, False, False),  # it is the command's
        (Machine("snp", "qemu", (), None, psp=True), True, False),  # never has KVM
    ],
)
def test_a_boot_says_so_on_a_terminal(
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    machine: Machine,
    terminal: bool,
    told: bool,
) -> None:
    (host / "kvm").unlink()
    boot = Boot(monkeypatch, machine)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert boot() == 0
    assert capsys.readouterr().err.count("without KVM") == told


@pytest.mark.parametrize(
    ("machine", "kvm", "told"),
    [("stock", False, 1), ("stock", True, 0), ("snp", False, 0), (None, False, 0)],
)
def test_a_run_says_so_once(
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    machine: str | None,
    kvm: bool,
    told: int,
) -> None:
    if not kvm:
        (host / "kvm").unlink()
    command_run.tell_slowness(machine, make_console())
    assert capsys.readouterr().out.count("without KVM") == told
