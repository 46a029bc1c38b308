# SPDX-License-Identifier: GPL-2.0-only
"""Guests of Linux as the harness drives them: on this machine, with a stand-in for QEMU."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import local
from harness.errors import UserError
from harness.kernel import Kernel
from harness.linuxguest import placement
from harness.linuxguest.definition import Kind, LinuxGuest
from harness.linuxguest.running import GuestError, How, RunningGuest
from harness.operations import TargetError

FAKE = Path(__file__).parent / "data/fake_qemu.py"
GUEST = LinuxGuest(firmware="OVMF.fd", kernel="vmlinuz", initrd="initrd.gz")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with local.start_agent("test") as kernel:
        yield kernel


def fake(kernel: Kernel, how: str, lifetime: float = 60) -> RunningGuest:
    return RunningGuest(kernel, GUEST, (sys.executable, "-I", "-S", str(FAKE), how), lifetime)


# The command line ---------------------------------------------------------------------------


def words_behind(words: list[str], option: str) -> list[str]:
    """Return what stands behind each occurrence of an option."""
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_arguments_of_an_snp_guest() -> None:
    words = LinuxGuest(
        firmware="OVMF.fd",
        kernel="vmlinuz",
        initrd="initrd.gz",
        command_line="console=ttyS0 quiet",
        vcpus=2,
        max_vcpus=255,
        memory=1024,
        host_data=b"\1" * 32,
    ).arguments()
    assert words_behind(words, "-smp") == ["2,maxcpus=255"]
    assert words_behind(words, "-append") == ["console=ttyS0 quiet"]
    assert words_behind(words, "-bios") == ["OVMF.fd"]
    assert words_behind(words, "-action") == ["reboot=shutdown"]
    (protection,) = [each for each in words_behind(words, "-object") if "guest" in each]
    assert protection == (
        "sev-snp-guest,id=protection,cbitpos=51,reduced-phys-bits=1,policy=0x30000,"
        f"kernel-hashes=on,host-data={base64.b64encode(bytes([1] * 32)).decode()}"
    )
    assert words_behind(words, "-chardev") == [
        f"socket,id={name},fd={fd}"
        for name, fd in (("console", 10), ("commands", 11), ("monitor", 12))
    ]


@pytest.mark.parametrize(
    ("kind", "policy"), [(Kind.SEV, "policy=0x1"), (Kind.SEV_ES, "policy=0x5")]
)
def test_older_kinds_take_their_firmware_from_flash(kind: Kind, policy: str) -> None:
    words = LinuxGuest(firmware="OVMF.fd", kernel="vmlinuz", kind=kind).arguments()
    assert "-bios" not in words
    assert words_behind(words, "-drive") == ["if=pflash,format=raw,unit=0,readonly=on,file=OVMF.fd"]
    (protection,) = [each for each in words_behind(words, "-object") if "guest" in each]
    assert protection.startswith("sev-guest,")
    assert policy in protection


def test_a_guest_without_a_kernel_has_no_hashes() -> None:
    words = LinuxGuest(firmware="OVMF.fd").arguments()
    assert not {"-kernel", "-initrd", "-append"} & set(words)
    assert any("kernel-hashes=off" in word for word in words)


def test_an_id_block_is_passed_on() -> None:
    guest = LinuxGuest(
        firmware="f", id_block=b"b" * 96, id_auth=b"a" * 4096, author_key=True, vcek_disabled=True
    )
    (protection,) = [each for each in guest.arguments() if each.startswith("sev-snp-guest")]
    assert f"id-block={base64.b64encode(b'b' * 96).decode()}" in protection
    assert f"id-auth={base64.b64encode(b'a' * 4096).decode()}" in protection
    assert protection.endswith("author-key-enabled=on,vcek-disabled=on")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host_data": b"1"}, "host_data has 1 bytes; want 32"),
        ({"id_block": b"1" * 96}, "id_block and id_auth come together"),
        ({"id_auth": b"1" * 96}, "id_auth has 96 bytes; want 4096"),
        ({"vcpus": 0}, "vcpus is 0"),
        ({"vcpus": 4, "max_vcpus": 2}, "vcpus is 4, max_vcpus 2"),
    ],
)
def test_what_cannot_be_a_guest(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LinuxGuest(firmware="f", **wrong)  # type: ignore[arg-type]


# A guest's life -----------------------------------------------------------------------------


def test_commands(kernel: Kernel) -> None:
    with fake(kernel, "boots") as guest:
        guest.userspace(30)
        assert guest.shell("echo out; echo err >&2") == "out\nerr\n"
        assert guest.run("exit 7").status == 7
        long = "x" * 5000
        assert guest.shell(f"echo {long}") == f"{long}\n"
        with pytest.raises(GuestError, match=r"'echo no; exit 3' gave 3 in the guest: no"):
            guest.shell("echo no; exit 3")


def test_a_command_that_does_not_end(kernel: Kernel) -> None:
    with fake(kernel, "boots") as guest:
        guest.userspace(30)
        with pytest.raises(GuestError, match=r"the end of 'sleep 60': not within 1 s") as caught:
            guest.run("sleep 60", 1)
        assert "SNPTEST-GUEST userspace" in str(caught.value)  # what was seen last


@pytest.mark.parametrize(
    ("command", "how"), [("poweroff -f", How.POWERED_OFF), ("reboot -f", How.RESET)]
)
def test_ends(kernel: Kernel, command: str, how: How) -> None:
    with fake(kernel, "boots") as guest:
        guest.userspace(30).begin(command)
        end = guest.end(30)
        assert end.how is how
        assert str(end).startswith(how.value)
        assert [each["data"]["guest"] for each in guest.events("SHUTDOWN")] == [True]
        with pytest.raises(GuestError, match=f"but the guest {how.value}"):
            guest.run("true", 30)


def test_killed(kernel: Kernel) -> None:
    with fake(kernel, "boots") as guest:
        guest.userspace(30).kill()
        end = guest.end(30)
        assert end.how is How.KILLED
        assert "signal 9" in end.detail


def test_qemu_refuses(kernel: Kernel) -> None:
    with fake(kernel, "refuses") as guest:
        with pytest.raises(GuestError) as caught:
            guest.userspace(30)
        first = str(caught.value).splitlines()[0]
        assert "but the guest was ended by QEMU (QEMU ended with status 1: fake: -machine" in first
        assert "\x1b" not in str(caught.value)
        assert guest.end(30).how is How.FAILED


@pytest.mark.parametrize(
    ("mode", "how", "reason"), [("terminates", How.TERMINATED, 24), ("stops", How.STOPPED, 38)]
)
def test_qemu_stops_a_guest_and_goes_on(kernel: Kernel, mode: str, how: How, reason: int) -> None:
    """Nobody waits for a guest whose vCPUs run no more, and QEMU does not stay."""
    with fake(kernel, mode) as guest:
        with pytest.raises(GuestError, match=f"but the guest {how.value}"):
            guest.userspace(60)
        end = guest.end(30)
        assert end.how is how
        said = f"KVM: unknown exit reason {reason}"
        assert end.detail == f"QEMU runs, state internal-error: {said}"
    assert guest._program.ended is not None


@pytest.mark.parametrize(
    ("mode", "how"), [("panics", How.PANICKED), ("terminates-11", How.TERMINATED)]
)
def test_qemu_tells_of_a_panic(kernel: Kernel, mode: str, how: How) -> None:
    with fake(kernel, mode) as guest:
        end = guest.end(30)
        assert end.how is how
        assert end.detail == "QEMU ended with status 0, reason guest-panic"


def test_a_guest_that_was_paused_has_not_ended(kernel: Kernel) -> None:
    with fake(kernel, "boots") as guest:
        guest.userspace(30)
        assert not guest.ended
        guest.ask("stop")
        assert [each["event"] for each in guest.events("STOP")] == ["STOP"]
        assert not guest.ended
        assert guest.shell("echo on") == "on\n"


def test_silence_is_told_with_what_was_seen(kernel: Kernel) -> None:
    with fake(kernel, "silent") as guest:
        with pytest.raises(GuestError, match="not within 2 s") as caught:
            guest.userspace(2)
        assert "OVMF speaks" in str(caught.value)
        assert "it is not real" in str(caught.value)


def test_the_first_complaint_of_a_guest_that_ended_is_told(kernel: Kernel) -> None:
    with fake(kernel, "oopses") as guest:
        with pytest.raises(GuestError, match="but the guest told the host of a panic") as caught:
            guest.userspace(30)
        assert "its kernel complained first:\n" in str(caught.value)
        assert "RIP: 0010:guilty_function+0x10/0x20" in str(caught.value)


def test_the_end_does_not_come(kernel: Kernel) -> None:
    with fake(kernel, "silent") as guest:
        with pytest.raises(GuestError, match="waited for its end: not within 1 s"):
            guest.end(1)


def test_monitor(kernel: Kernel) -> None:
    with fake(kernel, "silent") as guest:
        guest.ask("inject-nmi")
        assert [each["data"] for each in guest.events("NMI_TOLD")] == [{"by": "fake"}]
        with pytest.raises(GuestError, match="QEMU's monitor: human-monitor-command: no"):
            guest.ask("human-monitor-command")


def test_the_host_dies(kernel: Kernel) -> None:
    guest = fake(kernel, "silent")
    guest.see("OVMF", 30)
    kernel.shutdown()
    with pytest.raises(TargetError):
        guest.end(30)
    guest._monitor.close()


def test_nobody_outlives_its_time(kernel: Kernel) -> None:
    with fake(kernel, "silent", lifetime=1) as guest:
        began = time.monotonic()
        assert guest.end(30).how is How.FAILED
        assert time.monotonic() - began < 25


# Files --------------------------------------------------------------------------------------


def test_a_file_that_the_host_sees_is_not_sent(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_bytes(b"content")
    assert placement.place(kernel, file) == str(file)


def test_other_files_are_sent(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host has another file at that place: the mark differs."""
    file = tmp_path / "file"
    file.write_bytes(b"content" * 1000)
    monkeypatch.setattr(placement, "_mark", lambda kernel, path: "7 1.0")
    monkeypatch.setattr(placement, "FOLDER", str(tmp_path / "sent"))
    sent = Path(placement.place(kernel, file))
    assert sent.parent == tmp_path / "sent"
    assert sent.read_bytes() == file.read_bytes()
    placed = sent.stat()
    placement._placed.clear()
    assert placement.place(kernel, file) == str(sent)
    assert sent.stat().st_mtime_ns == placed.st_mtime_ns  # not once more


def test_a_file_that_cannot_be_read(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-file cannot be read: No such file"):
        placement.place(kernel, tmp_path / "no-file")


def test_no_room_to_send(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    (tmp_path / "sent").write_bytes(b"a file where the folder should be")
    monkeypatch.setattr(placement, "_mark", lambda kernel, path: "")
    monkeypatch.setattr(placement, "FOLDER", str(tmp_path / "sent"))
    with pytest.raises(UserError, match="cannot be made on test"):
        placement.place(kernel, file)
