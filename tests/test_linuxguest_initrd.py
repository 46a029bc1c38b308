# SPDX-License-Identifier: GPL-2.0-only
"""What Linux guests boot into: the archive, the modules and their order, init's commands."""

from __future__ import annotations

import base64
import gzip
import lzma
import re
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from queue import Queue

import pytest

from harness.errors import BuildError, UsageError
from harness.linuxguest import catalogue, cpio, helper, initrd, modules, store
from harness.linuxguest.choice import GuestKernel
from harness.linuxguest.store import Kept

BUSYBOX = """#!/bin/sh
printf 'busybox\\nsh\\nmount\\n[\\n'
"""
"""What stands for busybox where only its list of applets matters."""
ELF = b"\x7fELF of "
DEADLINE = 30.0


def kept(folder: Path, files: dict[str, bytes], release: str = "") -> Kept:
    """Make a part as the store keeps it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o755)
    hashes = {name: sha256(data).hexdigest() for name, data in files.items()}
    return Kept(folder, ("a=1",), release, hashes, "2026-01-01T00:00:00+00:00")


# --- the archive

MEMBERS = [
    cpio.file("bin/tool", b"\x7fELF" + bytes(range(256)), 0o755),
    cpio.file("bin-other", b""),
    cpio.link("bin/sh", "tool"),
    cpio.directory("tmp", 0o1777),
    cpio.character_device("dev/console", 5, 1),
    cpio.file("init", b"#!/bin/sh\n", 0o755),
]


def test_an_archive_is_read_back_as_it_was_written() -> None:
    """With the directories that nobody named, each before what is in it."""
    found = cpio.read(cpio.write(MEMBERS))
    assert {each.path: each for each in found} == {
        each.path: each for each in [*MEMBERS, cpio.directory("bin"), cpio.directory("dev")]
    }
    paths = [each.path for each in found]
    assert paths.index("bin") < paths.index("bin/sh") < paths.index("bin/tool")
    assert paths.index("dev") < paths.index("dev/console")


def test_an_archive_depends_on_its_content_only() -> None:
    archive = cpio.write(MEMBERS)
    assert cpio.write(reversed(MEMBERS)) == archive
    assert cpio.compress(archive) == cpio.compress(archive)
    assert gzip.decompress(cpio.compress(archive)) == archive
    assert cpio.compress(archive)[4:8] == bytes(4)  # gzip's date
    assert cpio.write([*MEMBERS, cpio.file("more", b"")]) != archive


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_reads_the_same(tmp_path: Path) -> None:
    """Another's reader: names, types, permissions, owners, contents."""
    archive = cpio.write(MEMBERS)
    listed = subprocess.run(
        ["cpio", "-tvn", "--quiet"], input=archive, capture_output=True, check=True, timeout=60
    ).stdout.decode()
    lines = {line.split()[-3 if "->" in line else -1]: line.split() for line in listed.splitlines()}
    assert {name: words[0] for name, words in lines.items()} == {
        each.path: stat.filemode(each.mode) for each in cpio.read(archive)
    }
    assert {tuple(words[2:4]) for words in lines.values()} == {("0", "0")}
    assert lines["dev/console"][4:6] == ["5,", "1"]
    no_devices = cpio.write([each for each in MEMBERS if not stat.S_ISCHR(each.mode)])
    command = ["cpio", "-idm", "--quiet", "--no-preserve-owner"]
    subprocess.run(command, input=no_devices, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "bin/sh").read_bytes() == MEMBERS[0].data
    assert (tmp_path / "init").stat().st_mtime == 0


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([cpio.file("/init", b"")], "'/init' is no path in an archive"),
        ([cpio.file("a/../b", b"")], "'a/../b' is no path in an archive"),
        ([cpio.file("a", b""), cpio.file("a/b", b"")], "a/b is below a, which is no directory"),
        ([cpio.file("a", b"1"), cpio.file("a", b"2")], "a is twice in the archive, and differs"),
        ([cpio.file("TRAILER!!!", b"")], "TRAILER!!! cannot be in an archive of this format"),
    ],
)
def test_archives_that_no_kernel_would_unpack(members: list[cpio.Member], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        cpio.write(members)


@pytest.mark.parametrize("length", [10, 100, 130, 300])
def test_an_archive_that_was_cut_is_no_archive(length: int) -> None:
    with pytest.raises(ValueError, match=r"cut off|no header"):
        cpio.read(cpio.write(MEMBERS)[:length])


# --- modules

RELEASE = "6.12.1-test"
FOLDER = f"lib/modules/{RELEASE}"
DEPENDENCIES = """kernel/virt/sev-guest.ko.xz: kernel/virt/tsm.ko.xz kernel/fs/configfs.ko.xz
kernel/virt/tsm.ko.xz: kernel/fs/configfs.ko.xz
kernel/fs/configfs.ko.xz:
kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko.gz
kernel/net/net_failover.ko: kernel/net/failover.ko.gz
kernel/net/failover.ko.gz:
"""
PACKED: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".gz": gzip.compress}


def kernel(folder: Path) -> GuestKernel:
    """Make a kernel with six modules, packed in three ways."""
    files = {
        f"{FOLDER}/modules.dep": DEPENDENCIES.encode(),
        f"{FOLDER}/modules.builtin": b"kernel/fs/ext4/ext4.ko\nkernel/virtio/virtio-ring.ko\n",
    }
    for line in DEPENDENCIES.splitlines():
        path = line.partition(":")[0]
        data = ELF + modules.plain_name(path).encode()
        files[f"{FOLDER}/{path}"] = PACKED.get(Path(path).suffix, bytes)(data)
    part = kept(folder, files, RELEASE)
    return GuestKernel("test", folder / "vmlinuz", RELEASE, ("a=1",), None, part)


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    """modules.dep names what has to be first last; a name may have '-' or '_'."""
    folder = kernel(tmp_path).modules
    assert folder is not None
    selection = modules.select(folder, ["virtio_net", "sev_guest", "tsm", "virtio_ring", "9p?"])
    names = [modules.plain_name(each) for each in selection.files]
    assert names == [
        *("failover", "net_failover", "virtio_net"),
        *("configfs", "tsm", "sev_guest"),
    ]
    assert selection.builtin == ("virtio_ring",)
    assert selection.missing == ("9p",)
    assert modules.select(folder, ["sev-guest?"]).files == selection.files[3:]
    assert modules.select(folder, []).files == ()


@pytest.mark.parametrize(
    ("name", "hint"), [("configf", "did you mean configfs?"), ("9p", "'9p?' takes it")]
)
def test_a_module_that_the_kernel_has_not(tmp_path: Path, name: str, hint: str) -> None:
    folder = kernel(tmp_path).modules
    assert folder is not None
    with pytest.raises(UsageError, match=f"kernel {RELEASE} has no module {name}") as caught:
        modules.select(folder, [name])
    assert hint in caught.value.hint


def test_a_folder_of_modules_that_depmod_has_not_seen(tmp_path: Path) -> None:
    folder = kernel(tmp_path).modules
    assert folder is not None
    (folder / "modules.dep").write_text("kernel/a.ko\n")
    with pytest.raises(BuildError, match=r"is damaged: 'kernel/a\.ko'"):
        modules.select(folder, ["a"])
    (folder / "modules.dep").unlink()
    with pytest.raises(BuildError, match=r"modules\.dep cannot be read") as caught:
        modules.select(folder, ["a"])
    assert "depmod" in caught.value.hint


def test_modules_are_unpacked_for_insmod() -> None:
    data = ELF + b"a module"
    assert modules.content(Path("a.ko"), data) == data
    assert modules.content(Path("a.ko.xz"), lzma.compress(data)) == data
    assert modules.content(Path("a.ko.gz"), gzip.compress(data)) == data
    if shutil.which("zstd"):
        packed = subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout
        assert modules.content(Path("a.ko.zst"), packed) == data
    for name, content in (("a.ko.xz", data), ("a.ko.gz", data), ("a.ko", b"!<arch>")):
        with pytest.raises(BuildError, match=f"module {name} "):
            modules.content(Path(name), content)


# --- the initrd


@pytest.fixture
def busybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "program"
    program.write_bytes(b"the program")
    monkeypatch.setattr(helper, "program", lambda: program)
    return kept(tmp_path / "busybox", {"busybox": BUSYBOX.encode()})


def content(made: initrd.Initrd) -> dict[str, cpio.Member]:
    """Return what is in an initrd, by path."""
    archive = gzip.decompress(made.file.read_bytes())
    return {each.path: each for each in cpio.read(archive)}


def test_an_initrd_holds_what_a_guest_needs(tmp_path: Path, busybox: Kept) -> None:
    made = initrd.initrd(
        kernel(tmp_path / "kernel"),
        busybox,
        names=["sev_guest", "virtio_net", "9p?"],
        files={"bin/mine": b"mine"},
    )
    found = content(made)
    assert found["modules/order"].data.decode().split() == [
        *("configfs.ko", "tsm.ko", "sev_guest.ko"),
        *("failover.ko", "net_failover.ko", "virtio_net.ko"),
    ]
    assert found["modules/sev_guest.ko"].data == ELF + b"sev_guest"
    assert found["init"].data == initrd.INIT.read_bytes()
    assert found["init"].mode == stat.S_IFREG | 0o755
    assert found["bin/serve"].data == initrd.SERVE.read_bytes()
    assert found["bin/guestreq"].data == b"the program"
    assert found["bin/mine"].data == b"mine"
    assert found["bin/mount"].data == b"busybox"
    assert found["bin/busybox"].data == BUSYBOX.encode()
    assert found["dev/console"].device == (5, 1)
    assert made.selection.missing == ("9p",)


def test_the_same_content_is_the_same_initrd(tmp_path: Path, busybox: Kept) -> None:
    """Named by its content, whenever and wherever its parts were fetched."""
    one = initrd.initrd(kernel(tmp_path / "one"), busybox, names=["tsm"])
    again = initrd.initrd(kernel(tmp_path / "two"), busybox, names=["tsm"])
    assert one.file == again.file
    assert initrd.initrd(kernel(tmp_path / "one"), busybox, names=["tsm?", "9p?"]).file == one.file
    other = initrd.initrd(kernel(tmp_path / "one"), busybox, names=["sev_guest"])
    assert other.file != one.file
    assert len(list(one.file.parent.iterdir())) == 2
    one.file.write_bytes(b"damaged")
    assert content(initrd.initrd(kernel(tmp_path / "one"), busybox, names=["tsm"])).keys()


def test_a_kernel_without_modules(tmp_path: Path, busybox: Kept) -> None:
    bare = GuestKernel("mine", tmp_path / "bzImage", RELEASE, ("a file of yours",))
    made = initrd.initrd(bare, busybox, names=["sev_guest"])
    assert made.selection == modules.Selection()
    assert content(made)["modules/order"].data == b""


def test_a_damaged_module_is_not_taken(tmp_path: Path, busybox: Kept) -> None:
    damaged = kernel(tmp_path / "kernel")
    assert damaged.modules is not None
    (damaged.modules / "kernel/virt/tsm.ko.xz").write_bytes(lzma.compress(ELF + b"another"))
    with pytest.raises(BuildError, match=r"tsm\.ko\.xz is damaged: its hash has changed"):
        initrd.initrd(damaged, busybox, names=["sev_guest"])


# --- commands

SHELLS = ["sh", "busybox"]


def shell_of(name: str) -> list[str]:
    """Return the command of a shell: this machine's, or the guests' own where it is kept."""
    if name == "sh":
        return ["sh"]
    part = store.known(catalogue.load().busybox)
    program = shutil.which(name) or (str(part.folder / name) if part else None)
    if program is None:
        pytest.skip("needs busybox: snptest guest build fetches it")
    return [program, "sh"]


class Server:
    """guests/linux/serve on this machine, run by a shell."""

    def __init__(self, shell: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [*shell, initrd.SERVE, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode())
        self._lines.put("")

    def send(self, raw: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(raw)
        self._process.stdin.flush()

    def line(self) -> str:
        """Return the next line of the answer; "" at its end."""
        return self._lines.get(timeout=DEADLINE)

    def ask(self, number: int, command: str) -> tuple[int, bytes]:
        """Run a command; return its status, and what it printed."""
        self.send(f"{number} {base64.b64encode(command.encode()).decode()}\n".encode())
        assert self.line() == f"BEGIN {number}\n"
        printed = ""
        while not (line := self.line()).startswith("END "):
            assert line.endswith("\n")
            assert len(line) <= 77
            printed += line
        assert line.split()[1] == str(number)
        return int(line.split()[2]), base64.b64decode(printed, validate=False)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(DEADLINE) == 0
        finally:
            self._process.kill()
            self._reader.join(DEADLINE)


@pytest.fixture(params=SHELLS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    shell = shell_of(request.param)
    if request.param == "busybox":  # as in the guest: its base64 takes more than GNU's does
        (tmp_path / "base64").symlink_to(shell[0])
    serving = Server(shell, tmp_path)
    yield serving
    serving.close()


def test_a_command_is_answered(server: Server) -> None:
    assert server.ask(1, "echo out; echo err >&2; exit 3") == (3, b"out\nerr\n")
    assert server.ask(2, "true") == (0, b"")
    assert server.ask(3, "kill -9 $$")[0] == 128 + 9
    assert server.ask(4, "cat") == (0, b"")  # it has no input: what comes next is not its


def test_what_a_command_prints_comes_through_as_it_is(server: Server) -> None:
    """Bytes of any kind, lines that look like an answer's end, a command of many lines."""
    status, printed = server.ask(7, r"printf 'END 7 0\n\000\377\r\nlast'")
    assert (status, printed) == (0, b"END 7 0\n\0\xff\r\nlast")
    many = "\n".join(f"printf %s\\\\n 'line {number}  of \\t it'" for number in range(300))
    status, printed = server.ask(8, many)
    assert printed.decode().split("\n")[:2] == ["line 0  of \\t it", "line 1  of \\t it"]
    assert printed.count(b"\n") == 300


def test_what_is_left_in_the_background_is_not_waited_for(server: Server) -> None:
    status, printed = server.ask(1, f"sleep {DEADLINE * 2:.0f} & echo $!")
    assert status == 0
    assert server.ask(2, f"kill {int(printed)}") == (0, b"")


@pytest.mark.parametrize(
    "noise", [b"\n", b"noise\n", b"-1 ZQ==\n", b"\xff\xfe\x00 ZQ==\n", b" 1 ZQ==\n", b"$(id)\n"]
)
def test_noise_is_left_unanswered(server: Server, noise: bytes) -> None:
    server.send(noise)
    assert server.ask(5, "echo well") == (0, b"well\n")


@pytest.mark.parametrize("text", ["", "!!!!", "ZQ=", "ZWNobyB4", "ZWNo byB4", "ZWNobyBhYm"])
def test_a_damaged_command_is_not_run(server: Server, text: str) -> None:
    """All but the fourth, which is whole."""
    server.send(f"6 {text}\n".encode())
    if text == "ZWNobyB4":
        assert [server.line() for _ in range(3)] == ["BEGIN 6\n", "eAo=\n", "END 6 0\n"]
    else:
        assert server.line() == "BAD 6\n"
    assert server.ask(7, "true") == (0, b"")


def test_lines_may_end_as_a_terminal_ends_them(server: Server) -> None:
    server.send(b"6 ZWNobyB4\r\n")
    assert [server.line() for _ in range(3)] == ["BEGIN 6\n", "eAo=\n", "END 6 0\n"]


@pytest.mark.parametrize("script", [initrd.INIT, initrd.SERVE], ids=["init", "serve"])
@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_scripts(script: Path, shell: str) -> None:
    subprocess.run([*shell_of(shell), "-n", script], check=True, timeout=60)


# --- the program


@pytest.fixture(scope="module")
def guestreq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = helper.program()
        assert helper.program() == made
        return made


def run(program: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """Run the program; return its status and the lines NAME: VALUE that it printed."""
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    return done.returncode, {name: value for name, _, value in lines}


def test_the_program_needs_no_library(guestreq: Path) -> None:
    """No program header of it names a loader (PT_INTERP)."""
    data = guestreq.read_bytes()
    offset, size, number = struct.unpack_from("<Q", data, 32) + struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, offset + size * each)[0] for each in range(number)]
    assert 1 in kinds  # PT_LOAD
    assert 3 not in kinds


def test_cpuid_and_memory(guestreq: Path) -> None:
    status, found = run(guestreq, "cpuid", "0")
    registers = (int(found[each], 0).to_bytes(4, "little") for each in ("ebx", "edx", "ecx"))
    vendor = b"".join(registers).decode()
    assert status == 0
    assert f"vendor_id\t: {vendor}\n" in Path("/proc/cpuinfo").read_text()
    assert run(guestreq, "memory", "3") == (0, {"pages": "768", "rounds": "1", "wrong": "0"})


@pytest.mark.parametrize("command", ["report", "ext-report", "key"])
def test_a_request_that_fails_says_how(guestreq: Path, command: str) -> None:
    """Of a device that is none: the errors are all there, and none is made up."""
    status, found = run(guestreq, command, "device=/dev/null")
    assert status == 1
    assert found["errno"] == "25 Inappropriate ioctl for device"
    assert found["fw_error"] == found["vmm_error"] == "0xffffffff"  # nobody has written it
    assert not {"report", "key"} & found.keys()
    status, found = run(guestreq, command, "device=/gone")
    assert (status, found) == (1, {"open": "2 No such file or directory"})


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nothing",
        "report data=zz",
        "report data=abc",
        f"report data={'00' * 65}",
        "report dat=00",
        "report 1",
        "key data=00",
        "key vmpl=-1",
        "key vmpl=0x100000000",
        "ext-report certs=2000000",
        "cpuid",
        "cpuid x",
        "memory 0",
    ],
)
def test_wrong_arguments_are_refused(guestreq: Path, arguments: str) -> None:
    assert run(guestreq, *arguments.split()) == (2, {})
