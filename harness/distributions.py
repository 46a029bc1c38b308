# SPDX-License-Identifier: GPL-2.0-only
"""What distributions call the packages that are needed here, and how each installs them.

Debian's names are the keys everywhere in this project.  The others are those that the kernel
(Documentation/admin-guide/verify-bugs-and-bisect-regressions.rst) and QEMU
(tests/docker/dockerfiles) tell their builders to install, else the distribution's own index.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
"""os-release(5): the first that is there counts."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A family of distributions."""

    name: str
    install: str
    """What installs packages, whose names follow."""
    names: dict[str, str]
    """Debian's name and the family's; alike where it is not in here."""

    def how(self, packages: Iterable[str]) -> str:
        """Return the command that installs packages, named as Debian does."""
        words = (self.names.get(package, package).split() for package in packages)
        return f"{self.install} {' '.join(dict.fromkeys(word for each in words for word in each))}"


DEBIAN = Distribution("Debian", "apt-get install", {})

FAMILIES: dict[str, Distribution] = {
    "debian": DEBIAN,
    "fedora": Distribution(
        "Fedora",
        "dnf install",
        {
            "xz-utils": "xz",
            "libc6-dev": "glibc-devel",
            "libelf-dev": "elfutils-libelf-devel",
            "libssl-dev": "openssl-devel",
            "pkg-config": "pkgconf-pkg-config",
            "libglib2.0-dev": "glib2-devel",
            "zlib1g-dev": "zlib-devel",
            "libattr1-dev": "libattr-devel",
            "libcap-ng-dev": "libcap-ng-devel",
            "seabios": "seabios-bin seavgabios-bin",
            "qemu-system-data": "qemu-common",
            "openssh-client": "openssh-clients",
            "mawk": "gawk",
            "python3-venv": "python3",
        },
    ),
    "arch": Distribution(
        "Arch",
        "pacman -S --needed",
        {
            "xz-utils": "xz",
            "libc6-dev": "glibc",
            "libelf-dev": "libelf",
            "libssl-dev": "openssl",
            "ninja-build": "ninja",
            "pkg-config": "pkgconf",
            "libglib2.0-dev": "glib2-devel",
            "zlib1g-dev": "zlib",
            "libattr1-dev": "attr",
            "libcap-ng-dev": "libcap-ng",
            "qemu-system-data": "qemu-common",
            "openssh-client": "openssh",
            "openssh-server": "openssh",
            "mawk": "gawk",
            "python3": "python",
            "python3-venv": "python",
        },
    ),
    "suse": Distribution(
        "openSUSE",
        "zypper install",
        {
            "xz-utils": "xz",
            "libc6-dev": "glibc-devel",
            "libelf-dev": "libelf-devel",
            "libssl-dev": "libopenssl-devel",
            "ninja-build": "ninja",
            "pkg-config": "pkg-config",
            "libglib2.0-dev": "glib2-devel",
            "zlib1g-dev": "zlib-devel",
            "libattr1-dev": "libattr-devel",
            "libcap-ng-dev": "libcap-ng-devel",
            "qemu-system-x86": "qemu-x86",
            "seabios": "qemu-seabios",
            "qemu-system-data": "qemu-vgabios",
            "openssh-client": "openssh-clients",
            "mawk": "gawk",
            "python3-venv": "python3",
        },
    ),
    "nixos": Distribution(
        "NixOS",
        "nix-shell -p",
        {
            "xz-utils": "xz",
            "make": "gnumake",
            "libc6-dev": "gcc",
            "libelf-dev": "elfutils",
            "libssl-dev": "openssl",
            "ninja-build": "ninja",
            "libglib2.0-dev": "glib",
            "zlib1g-dev": "zlib",
            "libattr1-dev": "attr",
            "libcap-ng-dev": "libcap_ng",
            "qemu-system-x86": "qemu",
            "qemu-system-data": "qemu",
            "openssh-client": "openssh",
            "openssh-server": "openssh",
            "mawk": "gawk",
            "python3-venv": "python3",
        },
    ),
}
_LIKE = {
    "rhel": "fedora",
    "centos": "fedora",
    "ubuntu": "debian",
    "opensuse": "suse",
    "sles": "suse",
    "archlinux": "arch",
}


def distribution() -> Distribution | None:
    """Return this system's family by os-release's ID and ID_LIKE; None where it is another."""
    told = _os_release()
    for word in f"{told.get('ID', '')} {told.get('ID_LIKE', '')}".lower().split():
        family = FAMILIES.get(_LIKE.get(word, word))
        if family is not None:
            return family
    return None


def how_to_install(packages: Iterable[str]) -> str:
    """Say how to get packages, named as Debian does, on this system."""
    wanted = list(packages)
    family = distribution()
    if family is not None:
        return family.how(wanted)
    return f"install what Debian calls {' '.join(wanted)}"


def _os_release() -> dict[str, str]:
    for path in OS_RELEASE:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
        return {key.strip(): _unquoted(value) for key, _, value in pairs}
    return {}


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value.strip()
