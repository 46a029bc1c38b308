# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernel source packages: linux-source-6.12[=VERSION] becomes a commit.

apt verifies what it downloads against its signed lists; nothing is installed.  Where the
same version is installed already and dpkg finds it unchanged, its tarball is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.host_packages import ensure_packages, run_apt
from harness.kbuild import cache
from harness.kbuild.gitrun import GitError
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree

DOWNLOAD_TIMEOUT = 1200.0
_BASE = re.compile(r"(linux-source-[0-9]+\.[0-9]+)(?:=([0-9A-Za-z.+~:-]+))?")
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

    def __str__(self) -> str:
        return f"{self.package}={self.version}"


def resolve(base: str) -> DebianSource:
    """Find the version that a --base means; UsageError where apt offers none."""
    match = _BASE.fullmatch(base)
    if match is None:
        raise UsageError(
            f"--base {base}: not a kernel source package",
            "name one like linux-source-6.12 or linux-source-6.12=6.12.107",
        )
    package, wanted = match[1], match[2]
    versions = offered(package)
    if not versions:
        run_apt(["update", "-q"])
        versions = offered(package)
    if not versions:
        raise UsageError(f"apt offers no {package}", "see: apt-cache search '^linux-source-'")
    for version in versions:
        if wanted is None or version == wanted or version.startswith((f"{wanted}-", f"{wanted}~")):
            return DebianSource(package, version)
    raise UsageError(
        f"apt offers no {package}={wanted}", f"it has: {', '.join(dict.fromkeys(versions))}"
    )


def offered(package: str) -> list[str]:
    """List the versions that apt knows, the newest first."""
    lines = _run(["apt-cache", "madison", package], 120).stdout.splitlines()
    return [line.split("|")[1].strip() for line in lines if line.count("|") == 2]


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
    version = _run(["dpkg-query", "-W", "-f", "${Version}", source.package], 60).stdout
    if version != source.version or not tarball.exists():
        return None
    verified = _run(["dpkg", "--verify", source.package], 120)
    return tarball if verified.returncode == 0 and not verified.stdout.strip() else None


def _download(source: DebianSource) -> Path:
    """Download the package with apt and take the tarball out of it."""
    folder = cache.root() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    done = _run(["apt-get", "download", "-q", str(source)], DOWNLOAD_TIMEOUT, folder)
    packages = list(folder.glob("*.deb"))
    if done.returncode or len(packages) != 1:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("E:")), "")
        raise BuildError(f"{source} could not be downloaded: {reason or 'apt-get gave no reason'}")
    tarball = folder / f"{source.package}.tar.xz"
    member = f"./usr/src/{tarball.name}"
    with tarball.open("wb") as sink:
        unpack = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(packages[0])], stdout=subprocess.PIPE
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
            raise BuildError(f"{packages[0].name} holds no {member}")
    packages[0].unlink()
    return tarball


def _run(
    command: list[str], timeout: float, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(
            f"{command[0]} is not there: source packages need a Debian system"
        ) from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{' '.join(command)} did not end within {timeout:g} s") from None
