# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernel source packages: linux-source-6.12[=VERSION] becomes a commit.

Nothing is installed.  Where the same version is installed already and dpkg finds it
unchanged, its tarball is used.  What the machine's own apt sources don't offer comes from
the suites in kernels/sources.toml.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import apt
from harness.errors import BuildError, UsageError
from harness.host_packages import ensure_packages, run_apt
from harness.kbuild import cache
from harness.kbuild.gitrun import GitError
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree

PATTERN = re.compile(r"(linux-source-([0-9]+)\.([0-9]+|x))(?:=([0-9A-Za-z.+~:-]+))?")
_REFS = "refs/snptest/base/"


@dataclass(frozen=True, slots=True)
class DebianSource:
    """One version of a source package."""

    package: str
    version: str

    @property
    def ref(self) -> str:
        """Its name in the tree: git allows neither '~' nor ':' there."""
        return f"{_REFS}{self.package}_{re.sub('[~:]', '_', self.version)}"

    @property
    def source(self) -> str | None:
        """No directory of the user's."""
        return None

    def __str__(self) -> str:
        return f"{self.package}={self.version}"

    def commit_of(self, tree: KernelTree, progress: Progress) -> str:
        """Return its commit in the tree, importing it first where it is not there yet."""
        return commit_of(self, tree, progress)


def resolve(base: str) -> DebianSource:
    """Find the version that a --base means; UsageError where apt offers none.

    linux-source-7.x is the newest 7 there is; linux-source-6.12=6.12.107 a point release.
    """
    match = PATTERN.fullmatch(base)
    if match is None:
        raise UsageError(
            f"--base {base}: not a kernel source package",
            "name one like linux-source-6.12, linux-source-6.12=6.12.107 or linux-source-7.x",
        )
    package, wanted = match[1], match[4]
    if match[3] == "x":
        package = _newest(match[2])
    found = _matching(package, wanted, offered(package))
    if found is None and apt.mirror() is None:
        run_apt(["update", "-q"])  # the system has no lists yet
        found = _matching(package, wanted, offered(package))
    # A version that is not there may have come since the suites' lists were downloaded.
    for refresh in (False, True):
        found = found or _matching(package, wanted, offered_by_suites(package, refresh))
    if found is not None:
        return found
    versions = apt.sort_versions(offered(package) + offered_by_suites(package))
    if not versions:
        raise UsageError(f"apt offers no {package}", "see: apt-cache search '^linux-source-'")
    raise UsageError(f"apt offers no {package}={wanted}", f"it has: {', '.join(versions)}")


def offered(package: str) -> list[str]:
    """List the versions that the machine's own apt sources offer, the newest first."""
    return apt.system().offered(package)


def offered_by_suites(package: str, refresh: bool = False) -> list[str]:
    """List the versions that the suites of kernels/sources.toml offer, the newest first."""
    suites = apt.suites(refresh)
    return suites.offered(package) if suites is not None else []


def _matching(package: str, wanted: str | None, versions: list[str]) -> DebianSource | None:
    for version in versions:
        if wanted is None or version == wanted or version.startswith((f"{wanted}-", f"{wanted}~")):
            return DebianSource(package, version)
    return None


def _newest(major: str) -> str:
    """Name the package of the newest minor version of a major one."""
    prefix = f"linux-source-{major}."
    suites = apt.suites(refresh=True)
    names = apt.system().names(prefix) + (suites.names(prefix) if suites is not None else [])
    minors = [int(name.removeprefix(prefix)) for name in names if re.fullmatch(r"\S+\.\d+", name)]
    if not minors:
        raise UsageError(f"apt offers no {prefix}x", "see kernels/sources.toml: where it is sought")
    return f"{prefix}{max(minors)}"


def commit_of(source: DebianSource, tree: KernelTree, progress: Progress) -> str:
    """Return the source's commit in the tree, importing it first where it is not there yet."""
    known = tree.commit_of(source.ref)
    if known:
        return known
    if shutil.which("xz") is None:
        ensure_packages(["xz-utils"], "for unpacking kernel sources")
    tarball = _installed(source)
    downloaded: Path | None = None
    if tarball is None:
        progress.stage(f"downloading {source}")
        tarball = downloaded = _download(source)
    try:
        progress.stage(f"importing {source} into git")
        return tree.import_tarball(tarball, source.ref, progress.count)
    except GitError as error:
        raise BuildError(f"{source} could not be imported: {error}") from None
    finally:
        if downloaded is not None:
            downloaded.unlink()


def _installed(source: DebianSource) -> Path | None:
    """Return the tarball of the installed package if it is that version and undamaged."""
    tarball = Path("/usr/src") / f"{source.package}.tar.xz"
    version = apt.run(["dpkg-query", "-W", "-f", "${Version}", source.package], 60).stdout
    if version != source.version or not tarball.exists():
        return None
    verified = apt.run(["dpkg", "--verify", source.package], 120)
    return tarball if verified.returncode == 0 and not verified.stdout.strip() else None


def _download(source: DebianSource) -> Path:
    """Download the package with apt and take the tarball out of it."""
    folder = cache.downloads()
    client: apt.Apt | None = apt.system()
    if source.version not in offered(source.package):
        client = apt.suites()
    if client is None:
        raise BuildError(f"{source} could not be downloaded: apt offers it no more")
    package = client.download(source.package, source.version, folder)
    tarball = folder / f"{source.package}.tar.xz"
    apt.extract(package, f"./usr/src/{tarball.name}", tarball)
    package.unlink()
    return tarball
