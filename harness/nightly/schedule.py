# SPDX-License-Identifier: GPL-2.0-only
"""What a night is made of, as data: ci/nightly.toml, which explains every key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import backends
from harness.errors import UsageError
from harness.tables import Values, close_to, read, shown
from harness.target import OPTIONS, Target

SUITES = ("launch", "psc", "ap_creation", "guest_req", "gmem")
HERE = "here"
"""This machine, where its backends take turns."""
HOURS = 8.0
JOB_HOURS = 2.0
CONFIRM = 2
_HINT = "ci/nightly.toml explains its form"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True, slots=True)
class Revision:
    """What is tested: a kernel that is built, one that was, or an interface on the emulator."""

    name: str
    base: str | None = None
    series: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    kernel: str | None = None
    """Name of a kernel that was built."""
    interface: str | None = None
    """What the emulator offers: v12, merged, 7.3."""
    running: bool = False
    """Whether it is the kernel that runs there already."""

    @property
    def builds(self) -> bool:
        """Whether it is built at night."""
        return self.base is not None

    @property
    def kind(self) -> str:
        """Say in words what it is."""
        if self.interface is not None:
            return "an interface of the emulator"
        return "the running kernel" if self.running else "a kernel to boot"

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that can test it."""
        if self.interface is not None:
            return ("emulator",)
        return ("local", "ssh") if self.running else ("vng", "ssh")


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is tested: a backend, and hosts that are equal to each other."""

    name: str
    target: Target
    """Without the kernel or interface, and the host, which are the job's."""
    hosts: tuple[str, ...] = ()
    """Hosts of ci/hosts.toml, for ssh; a job goes to whichever is free."""
    coordinator: str | None = None
    """Address of a labgrid coordinator: then the hosts are places there, acquired for a job."""
    suites: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """More words of `snptest run`."""

    @property
    def workers(self) -> tuple[str, ...]:
        """Who works through its jobs."""
        return self.hosts or (HERE,)


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a suite, of a revision, in a place."""

    revision: str
    place: str
    suite: str

    @property
    def name(self) -> str:
        """What it is called: 'mine/milan/gmem'."""
        return f"{self.revision}/{self.place}/{self.suite}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A night."""

    name: str
    revisions: dict[str, Revision]
    places: dict[str, Place]
    jobs: tuple[Job, ...]
    """In the order of the file: what stands first is known first."""
    hours: float = HOURS
    """After which nothing begins any more."""
    job_hours: float = JOB_HOURS
    """After which a job is ended."""
    confirm: int = CONFIRM
    """How often what fails runs again, to tell flaky tests."""

    def label(self, job: Job) -> str:
        """Return what the history calls the runs of a job, night after night."""
        return f"{self.name}/{job.name}"


def load(path: Path) -> Schedule:
    """Read a schedule; UsageError, naming file and key, where it is wrong."""
    data = read(path, _HINT)
    keys = ("name", "suites", "hours", "job-hours", "confirm", "revisions", "places")
    values = Values(path, "", data, keys, _HINT)
    suites = tuple(values.words("suites")) or SUITES
    revisions = {
        name: _revision(path, name, table) for name, table in _named(path, values, "revisions")
    }
    places = {name: _place(path, name, table) for name, table in _named(path, values, "places")}
    _check_uses(path, revisions, places)
    jobs = [
        Job(revision.name, place.name, suite)
        for revision in revisions.values()
        for place in places.values()
        if _fits(revision, place)
        for suite in place.suites or suites
    ]
    if not jobs:
        places_are = ", ".join(f"{each.name} ({each.target.backend})" for each in places.values())
        revisions_are = ", ".join(f"{each.name} ({each.kind})" for each in revisions.values())
        raise UsageError(
            f"{path}: no place can test any of the revisions: "
            f"places are {places_are}, revisions {revisions_are}",
            _HINT,
        )
    confirm = values.whole("confirm", 0, 20)
    return Schedule(
        values.text("name") or path.stem,
        revisions,
        places,
        tuple(dict.fromkeys(jobs)),
        values.number("hours", HOURS, 0.01, 168, "hours"),
        values.number("job-hours", JOB_HOURS, 0.01, 168, "hours"),
        CONFIRM if confirm is None else confirm,
    )


def _named(path: Path, values: Values, kind: str) -> list[tuple[str, Any]]:
    tables = values.named(kind)
    if not tables:
        raise values.wrong(kind, f"a table [{kind}.NAME]", hint=_HINT)
    for name in tables:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{path}: {kind} has the name {shown(name)}; "
                "want letters, digits, '.', '_' and '-', up to 61"
            )
    return list(tables.items())


def _revision(path: Path, name: str, table: Any) -> Revision:
    keys = ("base", "series", "config", "kernel", "interface", "running")
    values = Values(path, f"revisions.{name}", table, keys, _HINT)
    base, kernel, interface = (values.text(key) for key in ("base", "kernel", "interface"))
    running = values.flag("running")
    if sum(map(bool, (base, kernel, interface, running))) != 1:
        given = [key for key in ("base", "kernel", "interface", "running") if values.has(key)]
        only = " = false" if given == ["running"] else ""
        raise UsageError(
            f"{path}: revisions.{name} has {' and '.join(given) or 'none of them'}{only}; "
            "want exactly one of base, kernel, interface and running",
            "base (and series) is built; kernel was; interface is for the emulator; "
            "running = true is what a host runs already",
        )
    series, config = tuple(values.texts("series")), tuple(values.texts("config"))
    if (series or config) and base is None:
        key = "series" if series else "config"
        raise values.wrong(key, "it only with base", "is given, and base is not")
    return Revision(name, base, series, config, kernel, interface, running)


_TARGET = {name: option for name, option in OPTIONS.items() if option.place}
_PLACE = (
    "backend",
    "hosts",
    *(option.dashed for name, option in _TARGET.items() if name != "backend"),
    "coordinator",
    "suites",
    "revisions",
    "options",
)


def _place(path: Path, name: str, table: Any) -> Place:
    values = Values(path, f"places.{name}", table, _PLACE, _HINT)
    backend = values.choice("backend", backends.BACKENDS)
    hosts = tuple(values.words("hosts"))
    if backend == "ssh" and not hosts:
        raise values.wrong("hosts", "names of hosts, for backend is 'ssh'")
    if backend != "ssh" and hosts:
        found = f"is {shown(list(hosts))}, and backend is {backend!r}"
        raise values.wrong("hosts", "it only with backend = 'ssh'", found)
    if HERE in hosts:
        raise values.wrong("hosts", f"other names: {HERE!r} is this machine")
    return Place(
        name,
        Target.of(partial(_said, values)),
        hosts,
        values.text("coordinator"),
        tuple(values.words("suites")),
        tuple(values.words("revisions")),
        tuple(values.texts("options")),
    )


def _said(values: Values, name: str) -> object:
    """Return what a place says of a field of its target."""
    option = _TARGET.get(name)
    if option is None:
        return None
    if option.type is int:
        return values.whole(option.dashed, 0, 2**63 - 1)
    return values.text(option.dashed)


def _check_uses(path: Path, revisions: dict[str, Revision], places: dict[str, Place]) -> None:
    for place in places.values():
        for name in place.revisions:
            if name not in revisions:
                raise UsageError(
                    f"{path}: places.{place.name}.revisions names {shown(name)}; "
                    f"want some of {', '.join(revisions)}",
                    close_to(name, revisions),
                )
            if not _fits(revisions[name], place):
                raise UsageError(
                    f"{path}: backend {place.target.backend} of places.{place.name} cannot test "
                    f"revisions.{name}, which is {revisions[name].kind}"
                )


def _fits(revision: Revision, place: Place) -> bool:
    """Whether a place tests a revision."""
    if place.revisions and revision.name not in place.revisions:
        return False
    return place.target.backend in revision.backends
