# SPDX-License-Identifier: GPL-2.0-only
"""The test guest's image: built with gcc and binutils into a cache, or taken prebuilt.

`python -m harness.vm` builds both flavours and prints their sizes, hashes and the
launch digest of a one-vCPU guest; `--prebuilt` renews `guests/prebuilt/`.

A build is keyed by the content of its sources, the numbers of `harness.vm.layout` and
`harness.vm.mailbox`, the flags and the compiler's version.  Without a compiler the
prebuilt image is used, if it was made from the same sources and its hash is right.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from harness import places
from harness.vm import layout, mailbox

SOURCES: Final = places.ROOT / "guests"
PREBUILT: Final = SOURCES / "prebuilt"
UNITS: Final = ("entry.S", "main.c", "commands.c", "snp.c", "ghcb.c", "vc.c", "vmsa.c")
SNP_UNITS: Final = frozenset({"snp.c", "ghcb.c", "vc.c", "vmsa.c"})
OTHERS: Final = ("guest.h", "image.lds")
COMPILE_FLAGS: Final = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-builtin"),
    *("-m64", "-march=x86-64", "-mcmodel=small", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-pic", "-fno-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
    *("-fno-strict-aliasing", "-fno-tree-loop-distribute-patterns", "-fcf-protection=none"),
    *("-fno-common", "-fno-ident", "-g0"),
)
LINK_FLAGS: Final = ("-nostdlib", "-static", "--build-id=none", "--fatal-warnings", "-z", "norelro")
BUILD_TIMEOUT: Final = 60.0


class Flavour(StrEnum):
    """Which guest: with GHCB and #VC handler, or for VMs whose state is not protected."""

    SNP = "snp"
    PLAIN = "plain"


class GuestImageError(Exception):
    """There is no usable image; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A flat image, loaded and entered at `layout.IMAGE_GPA`."""

    flavour: Flavour
    data: bytes
    origin: str
    """The compiler's version line, or "prebuilt"."""

    @property
    def sha256(self) -> str:
        """Hash of the image."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def entry(self) -> int:
        """Initial RIP of every vCPU."""
        return layout.IMAGE_GPA


@lru_cache(maxsize=4)
def load(flavour: Flavour) -> GuestImage:
    """The image of `flavour`: from the cache, built now, or prebuilt where there is no compiler."""
    compiler = _compiler()
    if compiler is None:
        return load_prebuilt(flavour)
    path = cache_directory() / f"{build_key(compiler)}.{flavour}.bin"
    if not path.is_file():
        data = build(flavour)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
        return GuestImage(flavour, data, compiler)
    return GuestImage(flavour, path.read_bytes(), compiler)


def build(flavour: Flavour) -> bytes:
    """Compile and link the image now, in a temporary directory."""
    define = ["-DSNP"] if flavour is Flavour.SNP else []
    with tempfile.TemporaryDirectory(prefix="snptest-guest-") as name:
        work = Path(name)
        (work / "layout.h").write_text(header(), encoding="ascii")
        objects = []
        for unit in UNITS:
            if unit in SNP_UNITS and flavour is not Flavour.SNP:
                continue
            shutil.copy(SOURCES / unit, work / unit)
            objects.append(f"{unit}.o")
            _run(["gcc", *COMPILE_FLAGS, *define, "-I.", "-c", unit, "-o", objects[-1]], work)
        _run(["ld", *LINK_FLAGS, "-T", "image.lds", "-o", "image.elf", *objects], work)
        _run(["objcopy", "-O", "binary", "image.elf", "image.bin"], work)
        data = (work / "image.bin").read_bytes()
    if len(data) % layout.PAGE_SIZE or len(data) > layout.IMAGE_LIMIT:
        raise GuestImageError(f"guest image has {len(data)} bytes: not whole pages, or too many")
    return data


def header() -> str:
    """The guest's layout.h: the numbers of `harness.vm.layout` and `harness.vm.mailbox`."""
    numbers = layout.constants() | mailbox.constants()
    lines = ["/* Rendered from harness/vm/layout.py and harness/vm/mailbox.py. */"]
    lines += [f"#define {name} {value:#x}" for name, value in numbers.items()]
    return "\n".join(lines) + "\n"


def source_key() -> str:
    """Hash of everything the image is made from, the compiler excepted."""
    digest = hashlib.sha256()
    parts = [(name, (SOURCES / name).read_bytes()) for name in (*UNITS, *OTHERS)]
    flags = repr((COMPILE_FLAGS, LINK_FLAGS)).encode()
    parts += [("layout.h", header().encode()), ("flags", flags)]
    for name, content in parts:
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def build_key(compiler: str) -> str:
    """Name of a build in the cache."""
    return hashlib.sha256(f"{source_key()} {compiler}".encode()).hexdigest()[:32]


def load_prebuilt(flavour: Flavour) -> GuestImage:
    """The image that comes with the sources, its hash and its sources' hash checked."""
    path = PREBUILT / f"{flavour}.bin"
    try:
        manifest = json.loads((PREBUILT / "manifest.json").read_text(encoding="utf-8"))
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise GuestImageError(f"no prebuilt guest image ({error}); {_HINT}") from error
    if manifest.get("sources") != source_key():
        raise GuestImageError(f"{path.name} was not built from these sources; {_HINT}")
    if manifest.get("sha256", {}).get(str(flavour)) != hashlib.sha256(data).hexdigest():
        raise GuestImageError(f"{path.name} is damaged: its sha256 is not the manifest's; {_HINT}")
    return GuestImage(flavour, data, "prebuilt")


def write_prebuilt() -> None:
    """Renew `guests/prebuilt/` from the sources."""
    PREBUILT.mkdir(exist_ok=True)
    hashes = {}
    for flavour in Flavour:
        data = build(flavour)
        _replace(PREBUILT / f"{flavour}.bin", data)
        hashes[str(flavour)] = hashlib.sha256(data).hexdigest()
    manifest = {"sources": source_key(), "compiler": _compiler(), "sha256": hashes}
    _replace(PREBUILT / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def cache_directory() -> Path:
    """Where built images are kept: $SNPTEST_CACHE or the user's cache directory."""
    base = os.environ.get("SNPTEST_CACHE")
    if base is None:
        base = str(places.cache())
    return Path(base) / "guests"


_HINT: Final = "install gcc and binutils (Debian: apt install gcc binutils) to build it"


@lru_cache(maxsize=1)
def _compiler() -> str | None:
    """The tools' version lines, or None where one is missing or not for x86-64."""
    if any(shutil.which(tool) is None for tool in ("gcc", "ld", "as", "objcopy")):
        return None
    lines = [_run(["gcc", "-dumpmachine"], SOURCES).strip()]
    if not lines[0].startswith("x86_64"):
        return None
    for tool in ("gcc", "as", "ld"):
        lines.append(_run([tool, "--version"], SOURCES).splitlines()[0])
    return "; ".join(lines)


def _run(argv: list[str], directory: Path) -> str:
    # The linker script and headers are read from the sources, whatever the directory.
    # Nothing else of the caller's (C_INCLUDE_PATH, GNUTARGET, ...): the image is kept for others.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    env |= {"LC_ALL": "C", "CPATH": str(SOURCES)}
    argv = [str(SOURCES / word) if word == "image.lds" else word for word in argv]
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd=directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestImageError(f"cannot build the guest: {error}; {_HINT}") from error
    if done.returncode:
        raise GuestImageError(f"cannot build the guest: {' '.join(argv)}\n{done.stderr.strip()}")
    return done.stdout


def _replace(path: Path, data: bytes) -> None:
    """Write so that nobody ever sees half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
