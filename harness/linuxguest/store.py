# SPDX-License-Identifier: GPL-2.0-only
"""Parts of guests as they are kept: unpacked packages, by content, with the hash of each file.

linuxguest/ in the cache holds KEY.json, what a part of the catalogue is at present, and
content/HASH/, its files.  Only the first use and a refresh need the mirror.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import apt
from harness.errors import BuildError, UserError
from harness.host_packages import run_apt
from harness.kbuild import cache
from harness.kbuild.progress import Progress
from harness.linuxguest.candidates import Candidate, newest
from harness.linuxguest.catalogue import FILE, Wanted
from harness.linuxguest.unpack import arrange

OWN = "or name files of your own: --firmware FILE, --guest-kernel FILE"
FORMAT = 1
"""Of the records.  What an older snptest wrote is ignored, and fetched again."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A part in the cache."""

    folder: Path
    packages: tuple[str, ...]
    """What it was taken from: ovmf-amdsev=2026.08+ds-2."""
    release: str
    """Of a kernel: what uname -r says."""
    hashes: dict[str, str]
    """sha256 of each file, by its path in the folder."""
    created: str

    def read(self, name: str) -> bytes:
        """Return a file's content; BuildError where it is not what was kept."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise _damaged(self.folder / name, error.strerror or str(error)) from None
        if hashlib.sha256(data).hexdigest() != self.hashes.get(name):
            raise _damaged(self.folder / name, "its hash has changed")
        return data

    def path(self, name: str) -> Path:
        """Return a file for others to read; BuildError where it is not what was kept."""
        self.read(name)
        return self.folder / name


def home() -> Path:
    """Return the folder of all parts (not made yet, maybe)."""
    return cache.root() / "linuxguest"


def take(
    wanted: Wanted,
    *,
    refresh: bool = False,
    progress: Progress,
    say: Callable[[str], None],
    catalogue: Path = FILE,
) -> Kept:
    """Return a part, fetched where it is not kept yet, or when `refresh` asks for a newer one.

    BuildError: it cannot be had.
    """
    kept = known(wanted)
    if kept is not None and not refresh:
        return kept
    with cache.locked(say, "linuxguest.lock"):
        kept = known(wanted)  # another process may have fetched it meanwhile
        if kept is not None and not refresh:
            return kept
        try:
            return _fetch(wanted, kept, progress, catalogue)
        except UserError as error:
            state = "is kept, but no newer one can be looked for" if kept else "is not kept yet"
            hint = f"{error.hint}; {OWN}" if error.hint else OWN
            raise BuildError(f"{wanted.title} {state}: {error.message}", hint) from None


def known(wanted: Wanted) -> Kept | None:
    """Return what is kept of a part; None where it is incomplete, or the catalogue has changed."""
    record = cache.read_json(home() / f"{wanted.key}.json")
    if record is None or record.get("format") != FORMAT:
        return None
    if record.get("wanted") != wanted.described():
        return None
    kept = _kept(record)
    return kept if all((kept.folder / each).is_file() for each in kept.hashes) else None


def _kept(record: dict[str, Any]) -> Kept:
    return Kept(
        home() / "content" / record["content"],
        tuple(record["packages"]),
        record["release"],
        record["files"],
        record["created"],
    )


def _fetch(wanted: Wanted, kept: Kept | None, progress: Progress, catalogue: Path) -> Kept:
    """Look for the newest, and download it unless it is here."""
    progress.stage(f"looking for {wanted.title} by apt")
    if apt.mirror() is None:
        run_apt(["update", "-q"])  # the system has no lists yet
    client = apt.suites(True, catalogue, current=True)
    if client is None:
        raise BuildError(
            "this machine's apt names no Debian mirror, or Debian's keyring is missing"
        )
    found = newest(client, wanted)
    if kept is not None and kept.packages == found.named:
        return kept
    content = home() / "content"
    content.mkdir(parents=True, exist_ok=True)
    for stale in content.glob(".new-*"):  # of one that was killed: the lock is ours
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=content) as scratch:
        target = _unpacked(client, wanted, found, Path(scratch), progress)
        progress.stage(f"keeping {wanted.title}")
        hashes = _hashes(target)
        key = _key(hashes)
        shutil.rmtree(content / key, ignore_errors=True)
        target.rename(content / key)
    record = {
        "format": FORMAT,
        "wanted": wanted.described(),
        "packages": list(found.named),
        "release": found.release,
        "content": key,
        "files": hashes,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    cache.write_json(home() / f"{wanted.key}.json", record)
    return _kept(record)


def _unpacked(
    client: apt.Apt, wanted: Wanted, found: Candidate, scratch: Path, progress: Progress
) -> Path:
    """Download the packages and arrange what is in them; return that folder."""
    for package in found.packages:
        progress.stage(f"downloading {package}={found.version}")
        folder = scratch / "download" / package
        folder.mkdir(parents=True)
        file = client.download(package, found.version, folder)
        progress.stage(f"unpacking {package}")
        done = apt.run(["dpkg-deb", "-x", str(file), str(scratch / "root")], apt.DOWNLOAD_TIMEOUT)
        if done.returncode:
            raise BuildError(f"{file.name} cannot be unpacked: {done.stderr.strip()}")
        file.unlink()
    target = scratch / "target"
    target.mkdir()
    arrange(wanted, found.release, scratch / "root", target)
    return target


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file in a folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = digest
    return dict(sorted(found.items()))


def _key(hashes: dict[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:20]


def _damaged(file: Path, why: str) -> BuildError:
    return BuildError(
        f"{file} is damaged: {why}",
        f"remove {home()}, then: snptest guest build (needs the mirror)",
    )
