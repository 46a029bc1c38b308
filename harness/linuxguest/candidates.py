# SPDX-License-Identifier: GPL-2.0-only
"""Which packages a part of the catalogue means at present: the newest that the suites offer."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from harness.apt import Apt, sort_versions
from harness.errors import BuildError
from harness.linuxguest.catalogue import RELEASE, Wanted


@dataclass(frozen=True, slots=True)
class Candidate:
    """Packages of one version."""

    packages: tuple[str, ...]
    version: str
    release: str = ""
    """What {release} stands for."""

    @property
    def named(self) -> tuple[str, ...]:
        """The packages as apt names them: ovmf-amdsev=2026.08+ds-2."""
        return tuple(f"{each}={self.version}" for each in self.packages)


def newest(client: Apt, wanted: Wanted) -> Candidate:
    """Find the newest version of which all packages are there; BuildError where there is none."""
    found: dict[str, list[Candidate]] = {}
    for release in _releases(client, wanted):
        packages = tuple(each.replace(RELEASE, release) for each in wanted.packages)
        for version in client.offered(packages[0], wanted.suite):
            found.setdefault(version, []).append(Candidate(packages, version, release))
    for version in sort_versions(list(found)):
        for candidate in found[version]:
            others = candidate.packages[1:]
            if all(version in client.offered(each, wanted.suite) for each in others):
                return candidate
    names = ", ".join(each.replace(RELEASE, wanted.release) for each in wanted.packages)
    where = f"suite {wanted.suite} offers" if wanted.suite else "the suites offer"
    raise BuildError(f"{where} no {names}", "guests/linux/parts.toml says what is looked for")


def _releases(client: Apt, wanted: Wanted) -> list[str]:
    """List what {release} can stand for."""
    if not wanted.release:
        return [""]
    before, _, after = wanted.packages[0].partition(RELEASE)
    names = client.names(before)
    releases = [
        name[len(before) : len(name) - len(after)] for name in names if name.endswith(after)
    ]
    return [each for each in releases if fnmatch.fnmatchcase(each, wanted.release)]
