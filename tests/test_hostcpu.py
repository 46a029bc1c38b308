# SPDX-License-Identifier: GPL-2.0-only
"""A machine that is not x86-64: what it cannot do is refused in one line, the emulator works."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import backends, doctor, guestimage, hostcpu, kbuild
from harness.errors import UserError
from harness.guestimage import Flavour
from harness.kselftest import build as selftests
from harness.machine import build as machine
from harness.preflight.finding import State
from harness.vng.kinds import STOCK
from harness.vng.share import need_qemu
from tests import fakekernel
from tests.mutants.mutant import ROOT

NO_KERNEL = fakekernel.kernel_build(Path("/none"))


@pytest.fixture
def arm64(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.usefixtures("arm64")
@pytest.mark.parametrize(
    ("refused", "what"),
    [
        (lambda: kbuild.build("mine", str(ROOT / "guests")), "building kernels"),
        (
            lambda: selftests.build(NO_KERNEL, say=print),
            "building selftests",
        ),
        (machine.build, "the SNP machine"),
        (lambda: need_qemu(STOCK), "booting kernels, which use this machine's programs,"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    refused: Callable[[], object], what: str
) -> None:
    with pytest.raises(UserError) as caught:
        refused()
    assert caught.value.message == f"{what} needs an x86-64 machine; this one is aarch64"
    assert caught.value.hint == hostcpu.HERE


@pytest.mark.usefixtures("arm64")
def test_backends_say_so() -> None:
    for name in ("vng", "local"):
        said = backends.get(name).unavailable() or ""
        assert said.startswith(f"backend {name}")
        assert said.endswith("needs an x86-64 machine; this one is aarch64")
    for name in ("emulator", "ssh"):
        assert backends.get(name).unavailable() is None


@pytest.mark.usefixtures("arm64")
def test_doctor_says_so() -> None:
    found = next(each for each in doctor._python() if each.topic == "machine")
    assert found.state is State.MISSING
    assert "this one is aarch64" in found.found
    assert hostcpu.why_not_x86_64("x") == "x needs an x86-64 machine; this one is aarch64"


def test_on_x86_64_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert hostcpu.why_not_x86_64("x") is None
    assert "machine" not in {each.topic for each in doctor._python()}


def test_the_emulator_takes_the_prebuilt_guest_where_gcc_is_not_for_x86(
    tmp_path: Path,
) -> None:
    """An arm64 machine's own gcc: the guest image comes with the sources."""
    for name, body in (("gcc", "echo aarch64-linux-gnu"), ("ld", ""), ("as", ""), ("objcopy", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    program = "from harness.guestimage import *; print(load(Flavour.SNP).origin)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "SNPTEST_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "prebuilt\n"
    assert guestimage.load_prebuilt(Flavour.SNP).data
