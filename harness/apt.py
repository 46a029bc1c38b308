# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages as apt offers them: by the machine's own sources, and by more suites.

The suites that a file names (kernels/sources.toml, qemu/source.toml) are asked with a state
directory of our own, so that the system's apt configuration, lists and cache stay as they
are.  Either way apt verifies what it downloads against signed lists.
"""

from __future__ import annotations

import fnmatch
import functools
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from harness import tables
from harness.command import captured
from harness.errors import BuildError, UsageError
from harness.kbuild import cache
from harness.places import ROOT

SOURCES = ROOT / "kernels/sources.toml"
DOWNLOAD_TIMEOUT = 1200.0
FRESH = 86400.0
"""Seconds for which a list of the suites is taken as current."""


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with some options: none for the system's own."""

    options: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ("*",)

    def offered(self, package: str, suite: str = "") -> list[str]:
        """List the versions of a package, the newest first, of all suites or of one."""
        if not any(fnmatch.fnmatchcase(package, each) for each in self.patterns):
            return []
        table = self._table(package)
        return sort_versions(
            [version for version, index in table if not suite or f" {suite}/" in index]
        )

    def offered_sources(self, package: str) -> list[str]:
        """List the versions of a source package, the newest first."""
        return sort_versions(
            [version for version, index in self._table(package) if index.endswith(" Sources")]
        )

    def _table(self, package: str) -> list[tuple[str, str]]:
        """List versions, and the index that each is from."""
        done = run(["apt-cache", *self.options, "madison", package], 120)
        lines = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
        return [(version.strip(), index.strip()) for _, version, index in lines]

    def names(self, prefix: str) -> list[str]:
        """List the packages whose names begin so."""
        done = run(["apt-cache", *self.options, "pkgnames", prefix], 120)
        return sorted(
            name
            for name in done.stdout.split()
            if any(fnmatch.fnmatchcase(name, each) for each in self.patterns)
        )

    def download(self, package: str, version: str, folder: Path) -> Path:
        """Download a package into an empty directory; return the file."""
        command = ["apt-get", *self.options, "download", "-q", f"{package}={version}"]
        done = run(command, DOWNLOAD_TIMEOUT, folder)
        packages = list(folder.glob("*.deb"))
        if done.returncode or len(packages) != 1:
            raise BuildError(
                f"{package}={version} could not be downloaded: {_complaint(done.stderr)}",
                "is the mirror reachable? a list may also be too old: try apt-get update",
            )
        return packages[0]

    def download_source(self, package: str, version: str, folder: Path) -> Path:
        """Download a source package's upstream tarball into an empty directory; return it.

        Neither dpkg-dev nor anything else that unpacks Debian's packages is needed.
        """
        command = ["apt-get", *self.options, "source", "-q", "--download-only", "--tar-only"]
        done = run([*command, f"{package}={version}"], DOWNLOAD_TIMEOUT, folder)
        tarballs = [each for each in folder.glob("*.orig.tar.*") if each.suffix != ".asc"]
        if done.returncode or len(tarballs) != 1:
            raise BuildError(
                f"the source of {package}={version} could not be downloaded: "
                f"{_complaint(done.stderr)}",
                "is the mirror reachable? a list may also be too old: try apt-get update",
            )
        return tarballs[0]


def extract(package: Path, member: str, target: Path) -> None:
    """Write one file of a package, as tar names it, to a place; BuildError: it has none."""
    with target.open("wb") as sink:
        unpack = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        )
        taken = subprocess.run(
            ["tar", "-xO", member],
            stdin=unpack.stdout,
            stdout=sink,
            stderr=subprocess.PIPE,
            timeout=DOWNLOAD_TIMEOUT,
            check=False,
        )
        assert unpack.stdout is not None
        unpack.stdout.close()
        if unpack.wait(DOWNLOAD_TIMEOUT) or taken.returncode:
            raise BuildError(f"{package.name} holds no {member}")


def system() -> Apt:
    """Return the apt of the machine's own sources.

    With an index of our own: container images keep none, and it takes a second to make.
    """
    home = cache.root() / "apt" / "system"
    home.mkdir(parents=True, exist_ok=True)
    return Apt(
        ("-o", f"Dir::Cache::pkgcache={home}/pkgcache.bin", "-o", "Dir::Cache::srcpkgcache=")
    )


def suites(refresh: bool = False, sources: Path = SOURCES, *, current: bool = False) -> Apt | None:
    """Return an apt of the suites that a file names; None without a Debian mirror.

    Their lists are downloaded where there are none, or when `refresh` is asked and the ones
    there are older than a day.  BuildError: they cannot be had.  A mirror that cannot be reached
    is an error only where there are none yet, or when `current` ones are wanted.
    """
    known_suites = _suites(sources)
    address = mirror()
    keyring = known_suites.keyring
    if address is None or not keyring.is_file():
        return None
    home = cache.root() / "apt" / sources.parent.name
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    lines = [
        f"{suite.kind} [signed-by={keyring}] {address} {suite.name} {suite.component}\n"
        for suite in known_suites.suites
    ]
    options = {
        "Dir::State": home / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": home / "cache",
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": home / "parts",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": home / "parts",
        "Acquire::Languages": "none",
    }
    apt = Apt(
        tuple(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
        tuple(pattern for suite in known_suites.suites for pattern in suite.packages),
    )
    listing = home / "sources.list"
    stamp = home / "updated"
    known = stamp.exists() and listing.exists() and listing.read_text() == "".join(lines)
    if not known or (refresh and time.time() - stamp.stat().st_mtime > FRESH):
        listing.write_text("".join(lines))
        stamp.unlink(missing_ok=True)
        # apt takes a mirror that is not reached for a passing matter, which is no error to it.
        mode = () if known and not current else ("-o", "APT::Update::Error-Mode=any")
        done = run(["apt-get", *apt.options, *mode, "update", "-q"], DOWNLOAD_TIMEOUT)
        if done.returncode or "\nE:" in f"\n{done.stderr}":
            shown = f"{sources.parent.name}/{sources.name}"
            raise BuildError(
                f"the lists of {', '.join(each.name for each in known_suites.suites)} could not "
                f"be downloaded: {_complaint(done.stderr)}",
                f"is the mirror reachable? the suites are named in {shown}",
            )
        stamp.touch()
    return apt


@dataclass(frozen=True, slots=True)
class _Suite:
    """One suite of a file."""

    name: str
    component: str
    kind: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Suites:
    """What a file says of suites."""

    keyring: Path
    suites: tuple[_Suite, ...]


def _suites(path: Path) -> _Suites:
    """Read the suites of a file, which may say more; UsageError where they are wrong."""
    data = tables.read(path)
    values = tables.Values(path, "", data, tuple(data))
    found = []
    for number, table in enumerate(values.tables("suite"), 1):
        keys = ("name", "component", "type", "packages")
        suite = tables.Values(path, f"suite {number}", table, keys)
        packages = tuple(suite.texts("packages"))
        if not packages:
            raise suite.wrong("packages", 'patterns of names: ["linux-source-*"]')
        kind = suite.choice("type", ("deb", "deb-src"), "deb")
        found.append(_Suite(suite.need("name"), suite.need("component"), kind, packages))
    return _Suites(Path(values.need("keyring")), tuple(found))


def sort_versions(versions: list[str]) -> list[str]:
    """Sort Debian versions, the newest first, each once."""
    return sorted(set(versions), key=functools.cmp_to_key(_compare), reverse=True)


def _compare(one: str, other: str) -> int:
    if one == other:
        return 0
    done = run(["dpkg", "--compare-versions", one, "lt", other], 60)
    return -1 if done.returncode == 0 else 1


def mirror() -> str | None:
    """Return the Debian mirror of the machine's own sources; None where its lists name none."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    command = ["apt-get", *system().options, "indextargets", "--format", form]
    command.append("Created-By: Packages")
    for line in run(command, 120).stdout.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    return None


def _complaint(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("E:", "Err:"))]
    return lines[0] if lines else "apt-get gave no reason"


def run(
    command: list[str], timeout: float, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of apt or dpkg; UsageError where there is none, BuildError when it hangs."""
    try:
        return captured(command, timeout, f"{' '.join(command)} did not end", folder=folder)
    except FileNotFoundError:
        raise UsageError(
            f"{command[0]} is not there: source packages need a Debian system",
            "a source directory, a tarball or a git tree can be named instead",
        ) from None
