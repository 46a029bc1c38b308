# SPDX-License-Identifier: GPL-2.0-only
"""Where a Linux guest's firmware, kernel and busybox come from, and how they are kept."""

from __future__ import annotations

import fnmatch
import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import apt, kbuild
from harness.errors import BuildError, UsageError
from harness.kbuild.config import find_fragments
from harness.kbuild.progress import Progress
from harness.linuxguest import catalogue, choice, parts, store, unpack
from harness.linuxguest.candidates import newest
from harness.linuxguest.catalogue import Wanted
from harness.linuxguest.choice import Chooser
from tests.fakekernel import kernel_build

FILE = """
keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
[default]
firmware = "new"
kernel = "6.12"
[firmware.new]
package = "ovmf-amdsev"
file = "usr/share/ovmf/OVMF.fd"
[firmware.old]
package = "ovmf"
suite = "trixie"
file = "usr/share/ovmf/OVMF.fd"
[kernel."6.12"]
release = "6.12.*-cloud"
packages = ["linux-image-{release}"]
image = "boot/vmlinuz-{release}"
config = "boot/config-{release}"
[kernel."7.x"]
release = "7.*-cloud"
packages = ["linux-binary-{release}", "linux-modules-{release}"]
image = "usr/lib/modules/{release}/vmlinuz"
config = "usr/lib/modules/{release}/config"
[busybox]
package = "busybox-static"
file = "usr/bin/busybox"
"""


KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITE = """
[[suite]]
name = "sid"
component = "main"
packages = ["ovmf*"]
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    file = tmp_path / "parts.toml"
    file.write_text(FILE)
    return file


# --- the catalogue


def test_our_catalogue_is_whole() -> None:
    """Two firmwares and kernels 6.1, 6.12, 7.x; what it takes is what its suites are asked for."""
    known = catalogue.load()
    assert len(known.firmware) >= 2
    assert {"6.1", "6.12", "7.x"} <= known.kernels.keys()
    assert known.default_firmware in known.firmware
    assert known.default_kernel in known.kernels
    assert known.firmware[known.default_firmware].checks_hashes
    assert not known.firmware["sid-generic"].checks_hashes
    patterns = [each for suite in apt._suites(catalogue.FILE).suites for each in suite.packages]
    for wanted in (*known.firmware.values(), *known.kernels.values(), known.busybox):
        for package in wanted.packages:
            name = package.replace("{release}", wanted.release.replace("*", "1"))
            assert any(fnmatch.fnmatchcase(name, each) for each in patterns), name


@pytest.mark.parametrize(
    ("found", "instead", "said"),
    [
        ('kernel = "6.12"', 'kernel = "6.13"', r'default.kernel is "6.13"; want one of 6.12, 7.x'),
        ('suite = "trixie"', "suit = 1", "firmware.old.suit is no key that is known"),
        ('package = "ovmf"', "", "firmware.old.package is missing; want a text"),
        ('"usr/bin/busybox"', '"/bin/sh"', 'busybox.file is "/bin/sh"; want a file\'s path in'),
        ('"usr/bin/busybox"', '"../sh"', 'busybox.file is "../sh"; want a file\'s path in the'),
        ('"linux-image-{release}"', '"linux"', 'packages is \\["linux"\\]; want names with {rel'),
        ('release = "7.*-cloud"', "release = 7", "kernel.7.x.release is 7; want a text that is"),
        ('[kernel."7.x"]', '[kernel."../x"]', 'name is "../x"; want letters, digits'),
        ("[firmware.old]", "[firmware", "is no TOML: line"),
    ],
)
def test_mistakes_in_a_catalogue(described: Path, found: str, instead: str, said: str) -> None:
    assert FILE.count(found) >= 1
    described.write_text(FILE.replace(found, instead))
    with pytest.raises(UsageError, match=said):
        catalogue.load(described)


# --- what the suites offer

OFFERED = {
    "ovmf-amdsev": {"2026.08-2": "sid"},
    "ovmf": {"2026.08-2": "sid", "2025.02-8": "trixie", "2025.02-7": "trixie"},
    "busybox-static": {"1:1.38.0-3": "sid", "1:1.37.0-6": "trixie"},
    "linux-image-6.12.9-cloud": {"6.12.9-1": "trixie"},
    "linux-image-6.12.117-cloud": {"6.12.117-1": "trixie"},
    "linux-image-6.12.117-cloud-dbg": {"6.12.117-9": "trixie"},
    "linux-image-6.1.0-50-cloud": {"6.1.176-1": "bookworm"},
    "linux-binary-7.9.1-cloud": {"7.9.1-1": "sid"},
    "linux-modules-7.9.1-cloud": {"7.9.1-1": "sid"},
    "linux-binary-7.10.2-cloud": {"7.10.2-1~bpo13+1": "trixie-backports"},
    "linux-modules-7.10.2-cloud": {"7.10.2-1~bpo13+1": "trixie-backports"},
    "linux-binary-7.11.0-cloud": {"7.11.0-1": "sid"},
    "linux-modules-7.11.0-cloud": {"7.11.0-2": "sid"},
}


class Mirror:
    """What the suites offer, and the packages themselves, made when they are asked for."""

    def __init__(self) -> None:
        self.offered = {name: dict(versions) for name, versions in OFFERED.items()}
        self.downloaded: list[str] = []
        self.files: Callable[[str], dict[str, bytes]] = lambda name: {"usr/share/nothing": b""}

    def table(self, package: str) -> list[tuple[str, str]]:
        versions = self.offered.get(package, {})
        return [(each, f"http://a.example {suite}/main amd64") for each, suite in versions.items()]

    def names(self, prefix: str) -> list[str]:
        return sorted(each for each in self.offered if each.startswith(prefix))

    def download(self, package: str, version: str, folder: Path) -> Path:
        self.downloaded.append(f"{package}={version}")
        tree = folder / "tree"
        control = {"DEBIAN/control": CONTROL.format(name=package, version=version).encode()}
        for name, data in (self.files(package) | control).items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
        file = folder / f"{package}.deb"
        command: list[str | Path] = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, file]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        shutil.rmtree(tree)
        return file


CONTROL = """Package: {name}
Version: {version}
Architecture: amd64
Maintainer: A Developer <a@example.org>
Description: a package
"""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A system whose apt offers what it says, without apt."""
    found = Mirror()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(apt, "mirror", lambda: "the mirror")
    monkeypatch.setattr(apt, "suites", lambda *_, **__: apt.Apt())
    monkeypatch.setattr(apt.Apt, "_table", lambda self, package: found.table(package))
    monkeypatch.setattr(apt.Apt, "names", lambda self, prefix: found.names(prefix))
    monkeypatch.setattr(
        apt.Apt,
        "download",
        lambda self, package, version, folder: found.download(package, version, folder),
    )
    return found


@pytest.mark.parametrize(
    ("kind", "name", "packages"),
    [
        ("firmware", "new", ["ovmf-amdsev=2026.08-2"]),
        # The newest of its suite, not the newest there is.
        ("firmware", "old", ["ovmf=2025.02-8"]),
        # By Debian's order, in which 117 is more than 9; no other package that begins so.
        ("kernels", "6.12", ["linux-image-6.12.117-cloud=6.12.117-1"]),
        # The newest of which all packages are there.
        (
            *("kernels", "7.x"),
            [
                "linux-binary-7.10.2-cloud=7.10.2-1~bpo13+1",
                "linux-modules-7.10.2-cloud=7.10.2-1~bpo13+1",
            ],
        ),
    ],
)
def test_the_newest_is_taken(
    described: Path, mirror: Mirror, kind: str, name: str, packages: list[str]
) -> None:
    found = newest(apt.Apt(), getattr(catalogue.load(described), kind)[name])
    assert list(found.named) == packages


def test_what_nobody_offers(described: Path, mirror: Mirror) -> None:
    known = catalogue.load(described)
    for wanted, said in (
        (known.kernels["6.12"], "the suites offer no linux-image-6.12.*-cloud"),
        (known.firmware["old"], "suite trixie offers no ovmf"),
    ):
        mirror.offered = {"ovmf": {"2026.08-2": "sid"}}
        with pytest.raises(BuildError, match=re.escape(said)):
            newest(apt.Apt(), wanted)


# --- what is kept


def firmware_files(name: str) -> dict[str, bytes]:
    """Return what is in a package of firmware, or of busybox."""
    return {"usr/share/ovmf/OVMF.fd": name.encode(), "usr/bin/busybox": b"\x7fELF busybox"}


def take(wanted: Wanted, *, refresh: bool = False) -> store.Kept:
    return store.take(wanted, refresh=refresh, progress=Progress(), say=print)


@pytest.fixture
def wanted(described: Path, mirror: Mirror) -> Wanted:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    mirror.files = firmware_files
    return catalogue.load(described).firmware["old"]


def test_a_part_is_fetched_once(wanted: Wanted, mirror: Mirror) -> None:
    """Kept as it was found until newer ones are asked for, whatever is offered."""
    kept = take(wanted)
    assert kept.packages == ("ovmf=2025.02-8",)
    assert kept.read("OVMF.fd") == b"ovmf"
    mirror.offered["ovmf"]["2025.02-9"] = "trixie"
    assert take(wanted) == kept
    assert mirror.downloaded == ["ovmf=2025.02-8"]
    newer = take(wanted, refresh=True)
    assert newer.packages == ("ovmf=2025.02-9",)
    assert newer.folder == kept.folder  # by content, and that is the same
    assert take(wanted, refresh=True) == newer
    assert mirror.downloaded == ["ovmf=2025.02-8", "ovmf=2025.02-9"]
    mirror.files = lambda name: {"usr/share/ovmf/OVMF.fd": b"another"}
    mirror.offered["ovmf"]["2025.02-10"] = "trixie"
    another = take(wanted, refresh=True)
    assert another.folder != kept.folder
    assert kept.read("OVMF.fd") == b"ovmf"  # a guest may be running with it
    assert not list(kept.folder.parent.glob(".new-*"))


def test_another_description_is_another_part(wanted: Wanted, mirror: Mirror) -> None:
    take(wanted)
    assert take(replace(wanted, suite="sid")).packages == ("ovmf=2026.08-2",)
    assert take(replace(wanted, suite="sid", about="new words")).packages == ("ovmf=2026.08-2",)
    assert len(mirror.downloaded) == 2


def test_what_was_removed_from_the_cache_is_fetched_again(wanted: Wanted, mirror: Mirror) -> None:
    kept = take(wanted)
    (kept.folder / "OVMF.fd").unlink()
    assert take(wanted).read("OVMF.fd") == b"ovmf"
    assert len(mirror.downloaded) == 2


def test_what_was_damaged_in_the_cache_is_refused(wanted: Wanted) -> None:
    kept = take(wanted)
    (kept.folder / "OVMF.fd").write_bytes(b"ovmg")
    with pytest.raises(BuildError, match=r"OVMF\.fd is damaged: its hash has changed") as caught:
        kept.read("OVMF.fd")
    assert "snptest guest build" in caught.value.hint


def test_a_damaged_part_is_not_chosen(
    described: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither firmware nor a kernel: a guest would be measured, and be another one."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    monkeypatch.setattr(unpack, "write_dependencies", lambda root, release: None)
    mirror.files = lambda name: (kernel_files if name.startswith("linux") else firmware_files)(name)
    chooser = Chooser(file=described)
    for damaged, choose in (
        (chooser.firmware("old").file, chooser.firmware),
        (chooser.kernel("6.12").image, chooser.kernel),
    ):
        data = damaged.read_bytes()
        damaged.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(BuildError, match=f"{damaged.name} is damaged: its hash has changed"):
            choose("old" if choose == chooser.firmware else "6.12")


def test_a_package_that_has_changed_its_mind(wanted: Wanted, mirror: Mirror) -> None:
    mirror.files = lambda name: {"usr/share/edk2/OVMF.fd": b""}
    with pytest.raises(BuildError, match=r"hold no file usr/share/ovmf/OVMF\.fd") as caught:
        take(wanted)
    assert "parts.toml" in caught.value.hint
    assert not list(store.home().glob("*.json"))
    assert list((store.home() / "content").iterdir()) == []


def test_lists_of_a_mirror_that_is_not_reached(
    tmp_path: Path, described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By apt itself, to which that is no error: nothing would be on offer, for a day."""
    if shutil.which("apt-get") is None or not Path(KEYRING).is_file():
        pytest.skip("no Debian: apt-get or its keyring is missing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(apt, "mirror", lambda: "http://127.0.0.1:9/debian/")
    described.write_text(FILE + SUITE)
    (tmp_path / "apt.conf").write_text('Acquire::Retries "0";\n')  # for the test to be short
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    for _ in range(2):
        with pytest.raises(BuildError, match="lists of sid could not be downloaded: E: Failed to"):
            apt.suites(True, described)
    # Where there were lists, they are taken, unless current ones are wanted.
    (tmp_path / "cache/snptest/apt" / tmp_path.name / "updated").touch()
    monkeypatch.setattr(apt, "FRESH", -1.0)
    assert apt.suites(True, described) is not None
    with pytest.raises(BuildError, match="could not be downloaded"):
        apt.suites(True, described, current=True)


@pytest.mark.parametrize("known", [False, True])
def test_without_the_mirror(
    wanted: Wanted, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """What is kept serves; what is not is an error that says so, and what to do."""
    if known:
        take(wanted)

    def offline(*_: object, **__: object) -> apt.Apt:
        raise BuildError("the lists of sid could not be downloaded: Err:1", "is it reachable?")

    monkeypatch.setattr(apt, "suites", offline)
    if known:
        assert take(wanted).read("OVMF.fd") == b"ovmf"
    state = "is kept, but no newer one can be looked for" if known else "is not kept yet"
    with pytest.raises(BuildError) as caught:
        take(wanted, refresh=known)
    assert caught.value.message.startswith(f"firmware old {state}: the lists of sid could not")
    assert caught.value.hint.startswith("is it reachable?; or name files of your own")
    monkeypatch.setattr(apt, "suites", lambda *_, **__: None)
    with pytest.raises(BuildError, match="names no Debian mirror"):
        take(wanted, refresh=known)


def bzimage(release: str) -> bytes:
    """Return the beginning of a bzImage that names its release."""
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x600)
    text = f"{release} (a@example.org) #1 SMP\0".encode()
    head[0x800 : 0x800 + len(text)] = text
    return bytes(head)


def kernel_files(name: str) -> dict[str, bytes]:
    """Return what is in a package of a kernel: in one of two places, by the package."""
    kind, release = re.fullmatch(r"linux-(image|binary|modules)-(.*)", name).groups()  # type: ignore[union-attr]
    modules = f"lib/modules/{release}"
    return {
        "image": {
            f"boot/vmlinuz-{release}": bzimage(release),
            f"boot/config-{release}": b"CONFIG_A=y\n",
            f"{modules}/kernel/a.ko": b"a",
        },
        "binary": {
            f"usr/{modules}/vmlinuz": bzimage(release),
            f"usr/{modules}/config": b"CONFIG_B=y\n",
        },
        "modules": {f"usr/{modules}/kernel/b.ko": b"b"},
    }[kind]


@pytest.mark.parametrize(
    ("name", "release", "module"), [("6.12", "6.12.117-cloud", "a"), ("7.x", "7.10.2-cloud", "b")]
)
def test_a_kernel_and_its_modules(
    described: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    release: str,
    module: str,
) -> None:
    """Wherever its packages have them, and however many these are."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    mirror.files = kernel_files
    seen = []
    monkeypatch.setattr(unpack, "write_dependencies", lambda root, known: seen.append(known))
    found = Chooser(file=described).kernel(name)
    assert found.release == release == choice.release_of(found.image)
    assert found.modules is not None
    assert (found.modules / f"kernel/{module}.ko").read_bytes() == module.encode()
    assert found.config is not None
    assert found.config.read_text() == f"CONFIG_{module.upper()}=y\n"
    assert seen == [release]
    assert not (found.modules / "vmlinuz").exists()


# --- the user's own


def test_files_of_the_users(described: Path, tmp_path: Path, mirror: Mirror) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(bzimage("7.4.0-mine"))
    found = Chooser(file=described).kernel(str(image))
    assert (found.release, found.image, found.modules) == ("7.4.0-mine", image, None)
    image.write_bytes(bytes(0x1000))
    with pytest.raises(UsageError, match="is no bzImage: it has no setup header"):
        Chooser(file=described).kernel(str(image))
    with pytest.raises(UsageError, match="has no SEV metadata"):
        Chooser(file=described).firmware(str(image))
    assert mirror.downloaded == []


@pytest.mark.parametrize("kind", ["firmware", "kernel"])
def test_names_that_stand_for_nothing(described: Path, mirror: Mirror, kind: str) -> None:
    choose = getattr(Chooser(file=described), kind)
    with pytest.raises(UsageError, match=f"no {kind} is called nothing, and there is no") as caught:
        choose("nothing")
    assert caught.value.hint.startswith("name one of ")
    with pytest.raises(UsageError, match=f"no {kind} is called ./no/such"):
        choose("./no/such")


def test_an_initrd_of_the_users(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(UsageError, match="no such file"):
        parts.parts(str(firmware_file(tmp_path)), str(image_file(tmp_path)), tmp_path / "gone")
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"")
    made = parts.parts(str(firmware_file(tmp_path)), str(image_file(tmp_path)), initrd)
    assert made.initrd == initrd
    assert mirror.downloaded == []


def image_file(folder: Path) -> Path:
    path = folder / "bzImage"
    path.write_bytes(bzimage("7.4.0"))
    return path


def firmware_file(folder: Path, hashes: int = 0) -> Path:
    """Write what is no firmware but for OVMF's table: SEV metadata, and kernel hashes at `hashes`.

    OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm.
    """

    def entry(guid: str, data: bytes) -> bytes:
        return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le

    metadata = b"ASEV" + struct.pack("<IIIIII", 28, 1, 1, 0x800000, 0x1000, 1)
    table = entry("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", hashes, 0x400))
    end = 4096
    table += entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", end))
    footer = struct.pack("<H", len(table) + 18)
    footer += uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    body = metadata + bytes(end - len(metadata) - len(table) - len(footer) - 32)
    path = folder / f"OVMF-{hashes}.fd"
    path.write_bytes(body + table + footer + bytes(32))
    return path


@pytest.mark.parametrize("hashes", [0, 0x810C00])
def test_firmware_says_itself_whether_it_takes_hashes(tmp_path: Path, hashes: int) -> None:
    found = Chooser().firmware(str(firmware_file(tmp_path, hashes)))
    assert found.kernel_hashes is bool(hashes)
    assert found.checks_hashes is None


GUEST = find_fragments(["guest"])[-1].text


@pytest.mark.parametrize("without", ["", "EFI_STUB", "VIRTIO_BLK"])
def test_a_kernel_of_ours_has_to_be_able_to_be_a_guest(
    tmp_path: Path, described: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    (tmp_path / "config").write_text(GUEST.replace(f"CONFIG_{without}=y\n", ""))
    (tmp_path / "bzImage").write_bytes(bzimage("6.12.1"))
    build = kernel_build(tmp_path, name="mine", version=(6, 12, 1))
    monkeypatch.setattr(choice, "list_kernels", lambda: [build])
    monkeypatch.setattr(kbuild, "get", lambda name: build)
    if without == "EFI_STUB":
        with pytest.raises(UsageError, match="was built without CONFIG_EFI_STUB ") as caught:
            Chooser(file=described).kernel("mine")
        assert "--config guest" in caught.value.hint
        return
    found = Chooser(file=described).kernel("mine")
    assert found.image == tmp_path / "bzImage"
    assert found.lacks == ((f"CONFIG_{without}",) if without else ())


def test_a_kernel_that_has_a_name_of_the_catalogue(
    tmp_path: Path, described: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue's is taken, and it is said; not where it is only the default."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    mirror.files = kernel_files
    monkeypatch.setattr(unpack, "write_dependencies", lambda root, release: None)
    monkeypatch.setattr(choice, "list_kernels", lambda: [kernel_build(tmp_path, name="6.12")])
    said: list[str] = []
    chooser = Chooser(file=described, say=said.append)
    assert chooser.kernel().release == "6.12.117-cloud"
    assert said == []
    assert chooser.kernel("6.12").release == "6.12.117-cloud"
    assert said == ["kernel 6.12 is Debian's here, not yours: that would need another name"]
