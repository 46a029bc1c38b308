# SPDX-License-Identifier: GPL-2.0-only
"""Where a run runs: backend, interface, kernel, machine, memory, host, seed, the guests' parts.

Each field of `Target` is declared once, with its option: commands (harness/cli/options.py) and
pytest (harness/plugin.py) make their options of them, `words` gives them back for another
process, and `header` is what the first line of results says.  A new field needs no other place
than the one that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

Type = type[str] | type[int] | type[Path]


@dataclass(frozen=True, slots=True)
class Option:
    """How a field of a target is given on a command line, in TOML, and in a header."""

    name: str
    """Of the field: guest_kernel."""
    help: str
    metavar: str
    type: Type
    default: Any
    key: str
    """In the header of results; "" where something else there says more."""
    guest: bool
    """Whether it is a part of the Linux guests of the suite linux."""
    place: bool
    """Whether it belongs to a place of ci/nightly.toml; the others are of its revisions or jobs."""

    @property
    def dashed(self) -> str:
        """The name as TOML has it: guest-kernel."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """The option: --guest-kernel."""
        return f"--{self.dashed}"


def _option(
    help: str,
    metavar: str = "NAME",
    type: Type = str,
    *,
    default: Any = None,
    header: bool = True,
    guest: bool = False,
    place: bool = True,
) -> Any:
    """Declare a field with its option."""
    said = {"help": help, "metavar": metavar, "type": type, "guest": guest, "place": place}
    return field(default=default, metadata=said | {"header": header})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run runs; None: nothing is asked for, the backend decides."""

    backend: str = _option(
        "emulator (ssh where a host is named, vng where a kernel or a machine is), local, vng, ssh",
        default="emulator",
    )
    interface: str | None = _option("only this one: v12, merged or 7.3", place=False)
    kernel: str | None = _option("kernel made by `snptest build` (vng, ssh)", place=False)
    machine: str | None = _option(
        "stock, or snp: the default where it was built and the kernel has SNP (vng)"
    )
    memory: str | None = _option("memory of that machine: 1G, the default", "SIZE")
    host: str | None = _option(
        "of ci/hosts.toml, or USER@ADDRESS[:PORT] (ssh)", "HOST", place=False
    )
    seed: int = _option("seed of schedules, keys and random tests", "N", int, default=0)
    # The header says in full what guests are made of, as "guest"; "firmware" is the PSP's there.
    firmware: str | None = _option(
        "OVMF: a name of `snptest guest list`, or a file", "NAME|FILE", header=False, guest=True
    )
    guest_kernel: str | None = _option(
        "the guest's kernel: a name of `snptest guest list`, one of yours, or a bzImage",
        "NAME|FILE",
        header=False,
        guest=True,
    )
    guest_qemu: Path | None = _option(  # noqa: RUF009  # None: nothing that could change
        "QEMU that runs guests, a path on the host under test",
        "FILE",
        Path,
        header=False,
        guest=True,
    )

    @classmethod
    def of(cls, get: Callable[[str], Any], *, boots: bool = False) -> Target:
        """Make a target of what `get` says about each field, None or "" where it says nothing.

        boots: a kernel is booted in any case.  Where no backend is named, the rest decides.
        """
        given = _given(get)
        host = "host" in given
        boots = boots or "kernel" in given or "machine" in given
        return cls(**({"backend": usual_backend(host=host, boots=boots)} | given))

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Target:
        """Make a target of the first line of results, whose values have the types of fields."""
        # What called an interface a revision is still read.
        said = {"interface": header.get("revision"), **header}
        given = _given(lambda name: said.get(OPTIONS[name].key))
        return cls(**({"backend": ""} | given))

    def words(self, *, short: bool = False) -> list[str]:
        """Return options of `snptest run`, or of pytest, that say the same.

        short: leave out what is so anyway, for people.
        """
        usual = {name: option.default for name, option in OPTIONS.items()}
        boots = self.kernel is not None or self.machine is not None
        usual["backend"] = usual_backend(host=self.host is not None, boots=boots)
        words: list[str] = []
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is None or (short and value == usual[name]):
                continue
            text = str(value)
            # In one word, or a value that begins with a hyphen would be an option.
            words += [f"{option.flag}={text}"] if text.startswith("-") else [option.flag, text]
        return words

    def header(self, offered: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the first line of results says of it, None where it says nothing.

        offered: interfaces that are run where none was asked for.
        """
        said = {option.key: getattr(self, name) for name, option in OPTIONS.items() if option.key}
        return said | {"interface": self.interface or ", ".join(offered)}

    def guest_parts(self) -> dict[str, str]:
        """Return the parts of guests that are given, by their options."""
        parts = [option for option in OPTIONS.values() if option.guest]
        found = {option.flag: getattr(self, option.name) for option in parts}
        return {flag: str(value) for flag, value in found.items() if value is not None}


def usual_backend(*, host: bool, boots: bool) -> str:
    """Return the backend where none is named; a kernel that is booted is not the emulator's."""
    return "ssh" if host else "vng" if boots else "emulator"


def _given(get: Callable[[str], Any]) -> dict[str, Any]:
    found = {name: get(name) for name in OPTIONS}
    return {
        name: OPTIONS[name].type(value) for name, value in found.items() if value not in (None, "")
    }


def _options() -> dict[str, Option]:
    found = {}
    for each in fields(Target):
        said = dict(each.metadata)
        key = each.name if said.pop("header") else ""
        found[each.name] = Option(name=each.name, default=each.default, key=key, **said)
    return found


OPTIONS = _options()
"""By the names of the fields."""
