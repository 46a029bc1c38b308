# SPDX-License-Identifier: GPL-2.0-only
"""The kernels that are open in this process, and what they logged during a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.backends.base import ATTEMPTS, Backend
from harness.errors import BootError
from harness.kernel import STUCK_CALL, Death, Kernel
from harness.report.about import about, why_without_snp
from harness.splats import Splat
from harness.splats.known import Where
from harness.splats.symbols import Symbols
from harness.splats.watch import LogWatch
from harness.target import Target


@dataclass(frozen=True, slots=True)
class Sighting:
    """A splat, and what decodes the traces of the kernel that printed it."""

    splat: Splat
    symbols: Symbols | None


@dataclass(frozen=True, slots=True)
class Boot:
    """A boot to tell of: what a kernel printed before its first test, or that it has no SNP."""

    kernel: str
    interface: str
    sightings: tuple[Sighting, ...]
    console: str
    where: Where
    without_snp: str = ""
    """Why SNP is off on a machine that has it."""


_Key = tuple[str | None, tuple[tuple[str, Any], ...], str]
"""Interface, what was changed about machine and kernel, and whose it is: "" for anybody's."""


class KernelPool:
    """Opens kernels, keeps those that are dear to open, throws away those that died."""

    def __init__(self, backend: Backend, target: Target) -> None:
        self.backend = backend
        self.target = target
        self._open: dict[_Key, Kernel] = {}
        self._watches: dict[int, LogWatch] = {}
        self._boots: list[Boot] = []
        self._abouts: list[dict[str, str]] = []
        self._late: list[Sighting] = []
        self._last_words = ""
        self._test = ""
        self._last: Kernel | None = None
        self._last_release = ""

    def get(
        self, interface: str | None, parameters: Mapping[str, Any] | None = None, owner: str = ""
    ) -> Kernel:
        """Return the kernel for that interface and those parameters, opened if need be.

        With an owner it is nobody else's, now or later.  Raises Unconfigurable where the backend
        cannot change what `parameters` name.
        """
        key = _key(interface, parameters, owner)
        if key not in self._open:
            if (parameters or owner) and self.backend.reusable:
                self._discard_configured()
            kernel = self._opened(interface, parameters)
            self._open[key] = kernel
            self.watch(kernel, interface, snp=not parameters)
            kernel.mark(self._test)
        return self._open[key]

    def _discard_configured(self) -> None:
        """Close those with parameters: one beside the usual is enough for a machine."""
        for key in list(self._open):
            if key[1:] != _key(None)[1:]:
                self._discard(key)

    def _opened(self, interface: str | None, parameters: Mapping[str, Any] | None) -> Kernel:
        """Open a kernel; one that does not boot is given ATTEMPTS chances."""
        target = replace(self.target, interface=interface)
        for _ in range(ATTEMPTS):
            try:
                return self.backend.open(target, parameters)
            except BootError as error:
                if error.final:
                    raise
                failure = error
        raise BootError(f"{failure.message}\n{ATTEMPTS} boots failed", failure.hint) from None

    def autopsy(self) -> Death | None:
        """Say what the kernels that are open died of, when a test lost its own.

        Where several are open, the one that was lost is told of, not one that answers.
        """
        found = [death for kernel in self._open.values() if (death := kernel.autopsy())]
        return min(found, key=lambda death: death.kind == STUCK_CALL, default=None)

    def troubles(self) -> list[str]:
        """What keeps results from being whole."""
        return [why for kernel in self._open.values() if (why := kernel.trouble())]

    def release(self, interface: str | None) -> None:
        """Take back what `get` gave: closed, unless the backend's kernels are dear."""
        if not self.backend.reusable:
            self.discard(interface)

    def discard(
        self, interface: str | None, parameters: Mapping[str, Any] | None = None, owner: str = ""
    ) -> None:
        """Close a kernel for good; the next `get` opens another."""
        self._discard(_key(interface, parameters, owner))

    def _discard(self, key: _Key) -> None:
        kernel = self._open.pop(key, None)
        if kernel is not None:
            self.close(kernel)

    def discard_all(self) -> None:
        """Close every kernel: at the end, or when one died."""
        for key in list(self._open):
            self._discard(key)

    def bury(self) -> None:
        """Close every kernel after one died; nothing more is heard of any."""
        self._watches.clear()
        self.discard_all()
        self._late.clear()

    # Logs -------------------------------------------------------------------------------

    def watch(self, kernel: Kernel, interface: str | None, *, snp: bool = True) -> None:
        """Follow a kernel's log; what its boot printed is not the first test's.

        snp: nothing was switched off, so that it should have SNP where its machine does.
        """
        watch = self._watches[id(kernel)] = LogWatch(kernel)
        sightings = _sightings(watch)
        self._last, self._last_release = kernel, watch.release
        if not self.backend.interfaces:  # what runs decides: a real kernel
            self._abouts.append(about(kernel, watch))
        without = (snp and why_without_snp(kernel, watch.last)) or ""
        if sightings or without:
            where = self.where(f"boot::{kernel.name}", interface)
            boot = Boot(kernel.name, interface or "", tuple(sightings), watch.last, where, without)
            self._boots.append(boot)
        watch.mark()

    def close(self, kernel: Kernel) -> None:
        """Shut a kernel down, and keep what it says while its last files are closed."""
        watch = self._watches.pop(id(kernel), None)
        if watch is not None:
            self._late += _sightings(watch)
        kernel.shutdown()
        if watch is not None:
            self._late += _sightings(watch)
            self._last_words += watch.last

    def mark(self, test: str) -> None:
        """Begin a test: what was not judged yet, and what comes, is its own."""
        self._test = test
        for kernel in self._open.values():
            kernel.mark(test)
        self._last_words = ""
        for watch in self._watches.values():
            watch.mark()

    def console(self) -> str:
        """What the kernels logged since the last mark, as far as `new_splats` has read."""
        return self._last_words + "".join(watch.last for watch in self._watches.values())

    def new_splats(self) -> list[Sighting]:
        """Return the splats that were not told yet."""
        late, self._late = self._late, []
        return late + [each for watch in self._watches.values() for each in _sightings(watch)]

    def new_boots(self) -> list[Boot]:
        """Return the boots that were not silent and not told yet."""
        boots, self._boots = self._boots, []
        return boots

    def new_abouts(self) -> list[dict[str, str]]:
        """Return what kernels said about themselves when they were opened, and was not told yet."""
        abouts, self._abouts = self._abouts, []
        return abouts

    def where(self, test: str, interface: str | None) -> Where:
        """Say where a test runs, for known issues: on the kernel that was opened last."""
        environment = {self.backend.name}
        release = ""
        if self._last is not None:
            environment |= self._last.environment
            release = self._last.release or self._last_release
        return Where(test, interface or "", frozenset(environment), release)


def _sightings(watch: LogWatch) -> list[Sighting]:
    return [Sighting(splat, watch.kernel.symbols) for splat in watch.new_splats()]


def _key(
    interface: str | None, parameters: Mapping[str, Any] | None = None, owner: str = ""
) -> _Key:
    return interface, tuple(sorted((parameters or {}).items())), owner
