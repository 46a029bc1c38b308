# SPDX-License-Identifier: GPL-2.0-only
"""What guests/linux/parts.toml says: the firmware and kernels that can be chosen by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness import tables
from harness.places import ROOT
from harness.tables import Values

FILE = ROOT / "guests/linux/parts.toml"
RELEASE = "{release}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part, and the packages that it is taken from."""

    kind: str
    """firmware, kernel or busybox."""
    name: str
    """As the user chooses it; "" where there is one only."""
    packages: tuple[str, ...]
    """May have {release} in them, which is the same in all."""
    file: str
    """The firmware, kernel image or program: its path in a package."""
    config: str = ""
    """A kernel's configuration."""
    release: str = ""
    """Pattern of a kernel's release."""
    suite: str = ""
    """The only suite that it is taken from; "" for any."""
    about: str = ""
    checks_hashes: bool = False
    """Of firmware: whether it boots nothing that differs from its hash (kernel-hashes=on)."""

    @property
    def title(self) -> str:
        """What messages call it: 'kernel 6.12'."""
        return f"{self.kind} {self.name}".rstrip()

    @property
    def key(self) -> str:
        """What it is kept under: kernel-6.12."""
        return self.title.replace(" ", "-")

    def described(self) -> dict[str, object]:
        """Return all that decides what is taken, in JSON's types."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        del found["about"], found["checks_hashes"]
        return {**found, "packages": list(self.packages)}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The file's content."""

    path: Path
    default_firmware: str
    default_kernel: str
    firmware: dict[str, Wanted]
    kernels: dict[str, Wanted]
    busybox: Wanted


def load(path: Path = FILE) -> Catalogue:
    """Read the file; UsageError where it is wrong."""
    data = tables.read(path)
    top = Values(path, "", data, ("keyring", "default", "firmware", "kernel", "busybox", "suite"))
    firmware = {name: _firmware(path, name, table) for name, table in top.named("firmware").items()}
    kernels = {name: _kernel(path, name, table) for name, table in top.named("kernel").items()}
    default = Values(path, "default", data.get("default", {}), ("firmware", "kernel"))
    keys = ("package", "file", "suite")
    busybox = Values(path, "busybox", data.get("busybox", {}), keys)
    return Catalogue(
        path,
        default.choice("firmware", firmware),
        default.choice("kernel", kernels),
        firmware,
        kernels,
        _one_file(busybox, "busybox", ""),
    )


def _firmware(path: Path, name: str, table: object) -> Wanted:
    keys = ("package", "file", "suite", "about", "checks-hashes")
    values = Values(path, f"firmware.{name}", table, keys)
    found = _one_file(values, "firmware", name)
    return replace(found, checks_hashes=values.flag("checks-hashes"))


def _one_file(values: Values, kind: str, name: str) -> Wanted:
    """Read a part that is one file of one package."""
    _check_name(values, name or kind)
    return Wanted(
        kind,
        name,
        (values.need("package"),),
        _inside(values, "file"),
        suite=values.text("suite") or "",
        about=values.text("about") or "",
    )


def _kernel(path: Path, name: str, table: object) -> Wanted:
    keys = ("release", "packages", "image", "config", "suite", "about")
    values = Values(path, f"kernel.{name}", table, keys)
    _check_name(values, name)
    packages = tuple(values.words("packages"))
    if not packages or not all(RELEASE in each for each in packages):
        raise values.wrong("packages", f'names with {RELEASE} in them: ["linux-image-{RELEASE}"]')
    return Wanted(
        "kernel",
        name,
        packages,
        _inside(values, "image"),
        config=_inside(values, "config"),
        release=values.need("release", 'a pattern of releases: "6.12.*-cloud-amd64"'),
        suite=values.text("suite") or "",
        about=values.text("about") or "",
    )


def _inside(values: Values, key: str) -> str:
    """Return a path in a package."""
    path = values.need(key, "a file's path in the package, without '/' before it")
    if path.startswith("/") or ".." in path.split("/"):
        raise values.wrong(key, "a file's path in the package, without '/' before it")
    return path


def _check_name(values: Values, name: str) -> None:
    """See that a part's name can be a file's name, and is no path."""
    if not _NAME.fullmatch(name):
        raise values.wrong(
            "name", "letters, digits, '.', '_', '+', '-'", f"is {tables.shown(name)}"
        )
