# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run linux`: what its guests are made of, from the command line to the tests."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends import local
from harness.cli import guest_parts
from harness.cli import run as run_command
from harness.cli.run import RunOptions
from harness.errors import UsageError
from harness.linuxguest import cli, host
from harness.linuxguest.choice import OWN, Firmware, GuestKernel
from harness.linuxguest.host import Starter, given_qemu
from harness.linuxguest.modules import Selection
from harness.linuxguest.parts import Parts
from harness.nightly import schedule
from harness.places import ROOT
from harness.target import Target
from suites.linux.test_measurement import COMBINATIONS
from tests.test_cli import snptest
from tests.test_linuxguest_parts import firmware_file, image_file


def made(folder: Path, *, hashes: int = 0x810C00) -> Parts:
    """Return parts of which only the firmware can be read."""
    return Parts(
        Firmware("old", firmware_file(folder, hashes), "ovmf=2025.02-8"),
        GuestKernel("7.x", folder / "vmlinuz", "7.9.1-cloud", ("linux-binary=7.9.1-1",)),
        folder / "initrd.gz",
        Selection(),
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--firmware", "old"), ("--guest-kernel", "7.x"), ("--guest-qemu", "/bin/true")],
)
def test_parts_are_for_the_suite_that_has_guests(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    code, _, err = snptest(capsys, "run", "psc", option, value)
    assert code == 2
    assert f"{option} is for the suite linux, which is not among those that run" in err


def test_a_qemu_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "qemu"
    with pytest.raises(UsageError, match=f"--qemu {file}: no such file"):
        given_qemu(file, "--qemu")
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=f"--qemu {file}: no program"):
        given_qemu(file, "--qemu")
    file.chmod(0o755)
    monkeypatch.setattr(host, "OWN", (str(tmp_path),))
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(UsageError, match=f"has a {tmp_path} of its own"):
            given_qemu(path, "--qemu")
    monkeypatch.setattr(host, "OWN", ())
    monkeypatch.chdir(tmp_path)
    assert given_qemu(Path("qemu"), "--qemu") == file


def test_run_looks_at_the_qemu_first(tmp_path: Path) -> None:
    wanted = Target(backend="vng", machine="stock", guest_qemu=tmp_path / "qemu")
    with pytest.raises(UsageError, match=f"--guest-qemu {tmp_path}/qemu: no such file"):
        guest_parts.prepared(wanted)


def test_parts_reach_the_tests_and_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are named by their whole paths: pytest runs in another folder."""
    asked: list[object] = []

    def prepare(*wanted: object) -> Parts:
        asked.extend(wanted)
        return made(tmp_path)

    monkeypatch.setattr(cli, "prepare", prepare)
    monkeypatch.setattr(host, "OWN", ())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qemu").touch(0o755)
    wanted = Target(
        backend="vng", machine="stock", firmware="old", guest_kernel="7.x", guest_qemu=Path("qemu")
    )
    target, guest = guest_parts.prepared(wanted)
    assert asked == ["old", "7.x"]
    arguments = run_command._arguments(RunOptions(target), ["suites/linux"], 1)
    parts = ["--firmware", "old", "--guest-kernel", "7.x", "--guest-qemu", f"{tmp_path}/qemu"]
    assert arguments[arguments.index("--firmware") :][:6] == parts
    assert guest == {
        "firmware": "old (ovmf=2025.02-8)",
        "kernel": "7.x (linux-binary=7.9.1-1)",
        "qemu": f"{tmp_path}/qemu",
    }
    assert target.words(short=True)[-6:] == parts


def test_files_of_the_users_are_named_by_their_paths(tmp_path: Path) -> None:
    bios, image = firmware_file(tmp_path), image_file(tmp_path)
    own = Parts(
        Firmware("OVMF.fd", bios, OWN),
        GuestKernel("bzImage", image, "7.4.0", (OWN,)),
        tmp_path,
        Selection(),
    )
    assert (own.firmware.word, own.kernel.word) == (str(bios), str(image))
    named = cli.named(own, None, snp=False)
    assert named["firmware"] == str(bios)
    assert named["kernel"] == f"{image} (7.4.0)"


@pytest.mark.parametrize("hashes", [0, 0x810C00])
def test_kernel_hashes_where_the_firmware_takes_them(tmp_path: Path, hashes: int) -> None:
    parts = made(tmp_path, hashes=hashes)
    for file in (parts.kernel.image, parts.initrd):
        file.write_bytes(b"content")
    with local.start_agent("test") as kernel:
        starter = Starter(kernel, ("qemu",), parts)
        assert starter.guest().kernel_hashes is bool(hashes)
        assert starter.guest(kernel_hashes=not hashes).kernel_hashes is not bool(hashes)


def test_the_nightly_run_has_two_firmwares_and_all_kernels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each place's options are words that `snptest run` takes."""
    places = schedule.load(ROOT / "ci/nightly.toml").places
    guests = [each.options for each in places.values() if "linux" in each.suites]
    firmware = {_behind(options, "--firmware") for options in guests}
    kernels = {_behind(options, "--guest-kernel") for options in guests}
    assert len(firmware) >= 2
    assert kernels >= {"6.1", "7.x"}
    for options in guests:
        code, _, err = snptest(capsys, "run", "linux", *options, "-n", "none")
        assert (code, "-n takes a number or auto" in err) == (2, True), err


def _behind(options: tuple[str, ...], name: str) -> str:
    """Return an option's value; "" for the default."""
    return options[options.index(name) + 1] if name in options else ""


def test_what_is_measured_varies_pair_by_pair() -> None:
    """Any value of one with any of another, but for firmware that leaves no choice of hashes."""
    fixed = {("", False), ("trixie", True)}
    values = [
        (each.firmware, each.hashes, each.vcpus, each.cpu, each.words, each.more_files)
        for each in COMBINATIONS
    ]
    for one, other in itertools.combinations(range(len(values[0])), 2):
        wanted = {(a[one], b[other]) for a in values for b in values}
        found = {(each[one], each[other]) for each in values}
        assert wanted - found <= fixed
    assert len(COMBINATIONS) >= 12


def test_memory_of_a_process_is_rewritten() -> None:
    """All copies but those in shared memory."""
    script = ROOT / "suites/linux/rewrite.py"
    secret = "aa55" * 20
    code = (
        "import mmap, sys; data = bytearray.fromhex(sys.argv[1]); "
        "own = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); own[:40] = data; "
        "shared = mmap.mmap(-1, 4096); shared[:40] = data; "
        "print('ready', flush=True); input(); "
        "print(own[:40].hex()); print(shared[:40].hex())"
    )
    word = "rewritten-by-a-test"
    target = subprocess.Popen(
        [sys.executable, "-c", code, secret, word], stdin=-1, stdout=-1, text=True
    )
    with target:
        assert target.stdin is not None
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        done = subprocess.run(
            [sys.executable, script, word, secret, "00" * 40],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert int(done.stdout) >= 2  # bytearray and private memory
        said = target.communicate("\n", 60)[0].split()
    assert said == ["00" * 40, secret]


def test_no_process_has_the_word() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "suites/linux/rewrite.py", "no-process-has-this", "00", "01"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no process has the word no-process-has-this" in done.stderr


@pytest.mark.parametrize(
    ("checks", "hashes", "said"),
    [
        (True, 0x810C00, "; a place for kernel hashes, which it checks"),
        (False, 0x810C00, "; a place for kernel hashes, which it does not check"),
        (None, 0x810C00, "; a place for kernel hashes"),
        (False, 0, "; no kernel hashes"),
    ],
)
def test_it_is_said_whether_firmware_checks_hashes(
    tmp_path: Path, checks: bool | None, hashes: int, said: str
) -> None:
    parts = made(tmp_path, hashes=hashes)
    parts.initrd.write_bytes(b"content")
    parts = replace(parts, firmware=replace(parts.firmware, checks_hashes=checks))
    assert cli.described(parts)[0].endswith(said)
