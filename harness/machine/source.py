# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's sources: the distribution's package, upstream's tarball, or what the user names.

All of them become commits in a git repository of the cache, once for each content.  Nothing
is used unchecked: apt compares a package's tarball with signed lists, a tarball from the net
has to have the hash in qemu/source.toml, and of what the user names it is told what it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import apt, tables
from harness.errors import BuildError, UsageError, UserError
from harness.host_packages import ensure_packages, run_apt
from harness.kbuild import cache
from harness.kbuild.gitrun import GitError
from harness.kbuild.progress import Progress
from harness.kbuild.snapshot import Directory
from harness.kbuild.tree import SourceTree
from harness.places import ROOT
from harness.tables import Values

SOURCES = ROOT / "qemu/source.toml"
DOWNLOAD_TIMEOUT = 1800.0
"""Seconds for a tarball of 130 MB."""
READ_TIMEOUT = 60.0
"""Seconds that a server may be silent."""
TARBALLS = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".tgz")
HINT = "name the top directory of QEMU's sources, or a tarball of them"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Sources in the cache's repository."""

    name: str
    """What they are: qemu=1:10.0.13+ds-0+deb13u1, qemu-10.0.11.tar.xz, a directory."""
    checked: str
    """What they were checked by."""
    commit: str
    version: str
    """As their file VERSION has it."""


def _hash(values: Values) -> str:
    """Return a tarball's hash."""
    if not re.fullmatch(r"[0-9a-f]{64}", values.need("sha256")):
        raise values.wrong("sha256", "64 hexadecimal digits in lower case")
    return values.need("sha256")


class Sources:
    """What qemu/source.toml says, and the repository that sources are taken into."""

    def __init__(
        self,
        tree: SourceTree,
        progress: Progress,
        say: Callable[[str], None],
        description: Path = SOURCES,
    ) -> None:
        self._description = description
        keys = ("series", "package", "keyring", "suite", "tarball")
        values = Values(description, "", tables.read(description), keys)
        self.series = values.need("series")
        self.package = values.need("package")
        every = ("name", "component", "type", "packages")
        self.suites = [
            Values(description, f"suite {number}", each, every).need("name")
            for number, each in enumerate(values.tables("suite"), 1)
        ]
        known = [
            Values(description, f"tarball {number}", each, ("url", "sha256"))
            for number, each in enumerate(values.tables("tarball"), 1)
        ]
        self.tarballs = {each.need("url"): _hash(each) for each in known}
        self._tree = tree
        self._progress = progress
        self._say = say

    def take(self, given: Path | None = None, refresh: bool = False) -> Source:
        """Return the sources to build: those given, or the first of the file's that can be had.

        The latter are kept until `refresh` asks whether there are newer ones.  UsageError:
        what was given holds no QEMU.  BuildError: a hash is wrong, or nothing can be had.
        """
        if given is not None:
            return self._given(given.expanduser())
        kept = cache.root() / "machine" / "source.json"
        known = cache.read_json(kept)
        if known and not refresh:
            commit = self._tree.commit_of(known["ref"])
            if commit and known["version"].startswith(f"{self.series}."):
                return Source(known["name"], known["checked"], commit, known["version"])
        source, ref = self._first()
        record = {"name": source.name, "checked": source.checked, "ref": ref}
        cache.write_json(kept, {**record, "version": source.version})
        return source

    def _first(self) -> tuple[Source, str]:
        """Try what the file names, in order; return what it gave, and the name in git."""
        reasons = []
        try:
            return self._from_package()
        except UserError as error:
            reasons.append(error.message)
        for url, digest in self.tarballs.items():
            self._say(f"{reasons[-1]}; trying {url}")
            try:
                return self._from_url(url, digest)
            except UserError as error:
                reasons.append(error.message)
        raise BuildError(
            f"QEMU {self.series}'s source cannot be had: {'; '.join(reasons)}",
            "get a tarball and name it: snptest machine build --source qemu-10.0.x.tar.xz",
        )

    def _from_package(self) -> tuple[Source, str]:
        """Take the newest version of the series that apt offers."""
        self._progress.stage(f"looking for QEMU {self.series} by apt")
        if apt.mirror() is None:
            run_apt(["update", "-q"])  # the system has no lists yet
        for client in (apt.system(), apt.suites(True, self._description)):
            if client is None:
                continue
            found = [each for each in client.offered_sources(self.package) if self._fits(each)]
            if found:
                name = f"{self.package}={found[0]}"
                break
        else:
            raise BuildError(f"apt offers no {self.package} {self.series}")
        ref = f"refs/snptest/base/{re.sub('[~:]', '_', name)}"
        if self._tree.commit_of(ref) is None:
            self._progress.stage(f"downloading {name}")
            with _scratch() as folder:
                tarball = client.download_source(self.package, found[0], folder)
                self._import(tarball, ref)
        checked = "apt, by the hash in the archive's signed lists"
        return self._source(name, checked, ref), ref

    def _fits(self, version: str) -> bool:
        """Whether a Debian version is of the series: 1:10.0.13+ds-0+deb13u1 is of 10.0."""
        return version.rpartition(":")[2].startswith(f"{self.series}.")

    def _from_url(self, url: str, digest: str) -> tuple[Source, str]:
        """Download a tarball; BuildError where its hash is another one."""
        name = url.rpartition("/")[2]
        ref = f"refs/snptest/base/tarball-{digest[:16]}"
        if self._tree.commit_of(ref) is None:
            with _scratch() as folder:
                self._progress.stage(f"downloading {url} (MB)")
                tarball = folder / name
                found = download(url, tarball, self._progress)
                if found != digest:
                    raise BuildError(f"{url} has the sha256 {found}, not {digest}: not used")
                self._import(tarball, ref)
        return self._source(name, f"sha256 {digest}", ref), ref

    def _given(self, path: Path) -> Source:
        """Take what the user names."""
        if not path.exists():
            raise UsageError(f"--source {path}: no such file or directory", HINT)
        path = path.resolve()
        if path.is_dir():
            if not (path / "VERSION").is_file() or not (path / "target/i386").is_dir():
                raise UsageError(f"--source {path}: no QEMU sources are there", HINT)
            commit = Directory(path).commit_of(self._tree, self._progress)
            return self._source(str(path), "a directory, taken as it is", commit)
        if not path.name.endswith(TARBALLS):
            raise UsageError(f"--source {path}: not a tarball ({', '.join(TARBALLS)})", HINT)
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        ref = f"refs/snptest/base/tarball-{digest[:16]}"
        if self._tree.commit_of(ref) is None:
            self._import(path, ref)
        if digest in self.tarballs.values():
            checked = f"sha256 {digest}"
        else:
            checked = f"nothing: sha256 {digest} is not in qemu/source.toml"
        try:
            return self._source(path.name, checked, ref)
        except UsageError:
            self._tree.git("update-ref", "-d", ref)
            raise

    def _import(self, tarball: Path, ref: str) -> None:
        if tarball.suffix == ".xz" and shutil.which("xz") is None:
            ensure_packages(["xz-utils"], "for unpacking sources", self._say)
        self._progress.stage(f"importing {tarball.name} into git")
        try:
            self._tree.import_tarball(tarball, ref, self._progress.count)
        except GitError as error:
            raise BuildError(f"{tarball.name} could not be imported: {error}") from None

    def _source(self, name: str, checked: str, revision: str) -> Source:
        """Describe a commit; UsageError where it holds no QEMU."""
        try:
            version = self._tree.git("show", f"{revision}:VERSION")
            self._tree.git("cat-file", "-e", f"{revision}:target/i386")
        except GitError:
            raise UsageError(f"{name} holds no QEMU sources", HINT) from None
        if not version.startswith(f"{self.series}."):
            self._say(f"{name} is QEMU {version}; the patches are made for {self.series}.x")
        commit = self._tree.commit_of(revision)
        assert commit is not None
        return Source(name, checked, commit, version)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder in the cache for a download, which goes in any case."""
    place = cache.root() / "machine"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as folder:
        yield Path(folder)


def download(url: str, target: Path, progress: Progress) -> str:
    """Download a file; return its sha256.  BuildError where that takes too long or fails."""
    digest = hashlib.sha256()
    until = time.monotonic() + DOWNLOAD_TIMEOUT
    try:
        with urllib.request.urlopen(url, timeout=READ_TIMEOUT) as answer, target.open("wb") as file:
            length = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while data := answer.read(_CHUNK):
                digest.update(data)
                file.write(data)
                done += len(data)
                progress.count(done // _CHUNK, length // _CHUNK or None)
                if time.monotonic() > until:
                    raise BuildError(f"{url} took longer than {DOWNLOAD_TIMEOUT:g} s")
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise BuildError(f"{url} could not be downloaded: {error}") from None
    return digest.hexdigest()
