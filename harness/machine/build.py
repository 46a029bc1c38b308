# SPDX-License-Identifier: GPL-2.0-only
"""Building the SNP machine: sources, patches, a small configuration, compiled and kept.

A machine is found by content: sources, patches, configure's options, compiler and ROMs.
What was built once is there at once, also after going back to it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.command import captured
from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.hostcpu import need_x86_64
from harness.kbuild import cache
from harness.kbuild.compile import compiler_version
from harness.kbuild.progress import Progress
from harness.kbuild.tree import SourceTree
from harness.machine import patches, roms
from harness.machine.compile import OPTIONS, PACKAGES, compile_machine
from harness.machine.installed import FORMAT, PLAIN, SNP, MachineBuild, home, read
from harness.machine.source import Source, Sources

RECIPE = 1
"""Part of every key: raise it when the way of building changes what comes out."""
KEEP = 4
"""Machines that stay; older ones go when another is built."""
_LOCK = "machine.lock"


def build(
    source: Path | None = None,
    *,
    folder: Path | None = patches.PATCHES,
    refresh: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> MachineBuild:
    """Build the machine, or find it in the cache; from now on it is the one that boots kernels.

    `source` is a directory or tarball instead of what qemu/source.toml names, `folder` has the
    patches; None builds QEMU as it is, to compare with, and leaves the machine alone.
    `refresh` looks for newer sources.  UsageError: the source holds no QEMU.  BuildError: it
    cannot be had, a patch does not apply, the compiler complained.
    """
    progress = progress or Progress()
    # QEMU would run anywhere; the kernels it boots have this machine's programs as theirs.
    need_x86_64("the SNP machine")
    cache.check_buildable("QEMU")
    ensure_packages(PACKAGES, "for building the SNP machine", say)
    series = patches.load(folder) if folder is not None else []
    with cache.locked(say, _LOCK):
        tree = SourceTree(home() / "source")
        taken = Sources(tree, progress, say).take(source, refresh)
        firmware = roms.find(tree, taken.commit, say)
        key = machine_key(tree.tree_of(taken.commit), series, firmware)
        if read(key) is None:
            _make(key, tree, taken, series, firmware, progress)
        cache.write_json(home() / f"{PLAIN if folder is None else SNP}.json", {"key": key})
        _prune()
    made = read(key)
    if made is None:
        raise BuildError(f"{home() / key} went while it was built", "build it again")
    return made


def machine_key(tree: str, series: list[patches.MachinePatch], firmware: dict[str, bytes]) -> str:
    """Hash everything that decides what is built; `tree` is the unpatched sources' hash."""
    content = hashlib.sha256()
    parts = [str(RECIPE), tree, patches.digest(series), *OPTIONS, compiler_version()]
    parts += [hashlib.sha256(firmware[name]).hexdigest() for name in sorted(firmware)]
    for part in parts:
        content.update(part.encode() + b"\0")
    return content.hexdigest()[:20]


def _make(
    key: str,
    tree: SourceTree,
    source: Source,
    series: list[patches.MachinePatch],
    firmware: dict[str, bytes],
    progress: Progress,
) -> None:
    """Compile, and put the result where its key belongs, whole or not at all."""
    began = time.monotonic()
    if series:
        progress.stage(f"applying {len(series)} patches to QEMU {source.version}")
    commit = patches.apply(tree, source.commit, series, source.version)
    progress.stage("checking QEMU out")
    tree.checkout(patches.prepare(tree, commit))
    log = home() / "build.log"
    program = compile_machine(tree.path, home() / "objects", source.version, log, progress)
    progress.stage("keeping the machine")
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=home()))
    try:
        shutil.copy2(program, scratch)
        (scratch / "firmware").mkdir()
        for name, content in firmware.items():
            (scratch / "firmware" / name).write_bytes(content)
        shutil.copy2(log, scratch)
        record = {
            "format": FORMAT,
            "version": source.version,
            "source": source.name,
            "checked": source.checked,
            "patches": [(each.name, each.subject) for each in series],
            "digest": patches.digest(series),
            "compiler": compiler_version(),
            "seconds": round(time.monotonic() - began, 1),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        record["snp"] = has_snp(scratch / program.name)
        cache.write_json(scratch / "machine.json", record)
        scratch.chmod(0o755)
        shutil.rmtree(home() / key, ignore_errors=True)  # left without its machine.json
        os.rename(scratch, home() / key)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def has_snp(program: Path) -> bool:
    """Whether a QEMU's PC has SNP; BuildError where it does not start at all."""
    command = [str(program), "-machine", "q35,help"]
    done = captured(command, 60, "the QEMU that was built did not list its machines")
    if done.returncode:
        raise BuildError(f"the QEMU that was built does not start: {done.stderr.strip()[:300]}")
    return "x-snp-host=" in done.stdout


def _prune() -> None:
    """Remove what was left by builds that were killed, and all but the newest machines."""
    for left in (*home().glob(".new-*"), *home().glob(".download-*")):
        shutil.rmtree(left, ignore_errors=True)
    records = [cache.read_json(home() / f"{name}.json") or {} for name in (SNP, PLAIN)]
    named = {record.get("key") for record in records}
    built = sorted(home().glob("*/machine.json"), key=lambda each: each.stat().st_mtime)
    for file in built[:-KEEP]:
        if file.parent.name not in named:
            shutil.rmtree(file.parent, ignore_errors=True)
