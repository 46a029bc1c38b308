# SPDX-License-Identifier: GPL-2.0-only
"""Configuring and compiling a kernel out of its tree, with kbuild and ccache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from harness import cpus, leash
from harness.errors import BuildError, ResourceError
from harness.kbuild import cache, fault
from harness.kbuild.progress import Progress
from harness.kbuild.toolchain import DEFAULT, Toolchain

MAKE_TIMEOUT = 6 * 3600.0
"""A distribution's configuration takes hours on a small machine."""
FULL_BUILD = 1850
"""Steps of a build from nothing with base.config, 6.12: what is expected the first time."""
UNFINISHED = 10.0
"""Seconds before a make was killed in which a file that it left may have been begun."""
TARGETS = ("bzImage", "modules")
KEPT_LOGS = 20
"""Logs of failed builds that are kept, in failed/ of the cache."""

# Everything that would otherwise make the same source give another kernel.
_PINNED = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "snptest",
    "KBUILD_BUILD_HOST": "snptest",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


class Compiler:
    """make in one object directory for one source tree."""

    def __init__(self, source: Path, objects: Path, toolchain: Toolchain = DEFAULT) -> None:
        self.source = source
        self.objects = objects
        self.toolchain = toolchain
        objects.mkdir(parents=True, exist_ok=True)
        self._running = objects / "snptest-running"
        if self._running.exists():  # nobody else does: the caller holds the cache's lock
            drop_unfinished(objects)

    def configure(self, symbols: str) -> str:
        """Make .config from allnoconfig and the symbols, one a line; return it."""
        combined = self.objects / "snptest.config"
        combined.write_text(symbols)
        self._make([f"KCONFIG_ALLCONFIG={combined}", "allnoconfig"], Progress(), 0)
        return (self.objects / ".config").read_text()

    def build(self, log: Path, progress: Progress, expected: int | None = None) -> None:
        """Compile kernel and modules; BuildError shows the first error.

        `expected` steps are what the progress counts to; without it, those of the last build
        from nothing.
        """
        known = cache.read_json(self.objects / "snptest-steps.json") or {}
        full = int(known.get("steps", FULL_BUILD))
        jobs = f"-j{cpus.usable()}"
        # kbuild prints a line for each object, so the last full build says how many there are.
        total = full if expected is None else min(expected, full)
        steps = self._make([jobs, *TARGETS], progress, total, log)
        if steps > int(known.get("steps", 0)):
            cache.write_json(self.objects / "snptest-steps.json", {"steps": steps})

    def build_modules(self, folder: Path) -> None:
        """Compile the modules in a folder of their own against the kernel that was built."""
        log = folder / "build.log"
        self._make([f"M={folder}", "modules"], Progress(), 0, log, "snptest's own modules")

    def release(self) -> str:
        """Return what uname -r will say."""
        return (self.objects / "include/config/kernel.release").read_text().strip()

    def modules(self) -> list[Path]:
        """Return the modules, each behind those it depends on."""
        order = (self.objects / "modules.order").read_text().split()
        paths = [self.objects / Path(each).with_suffix(".ko") for each in order]
        # Names in `depends` have underscores where the files may have hyphens.
        waiting = {each.stem.replace("-", "_"): each for each in paths}
        sorted_paths: list[Path] = []
        while waiting:
            ready = [name for name, each in waiting.items() if not depends(each) & waiting.keys()]
            if not ready:
                raise BuildError(f"modules need each other: {', '.join(waiting)}")
            sorted_paths += [waiting.pop(name) for name in ready]
        return sorted_paths

    def _make(
        self,
        arguments: list[str],
        progress: Progress,
        expected: int,
        log: Path | None = None,
        what: str = "the kernel",
    ) -> int:
        """Run make for `what`; return how many steps it took."""
        command = [
            "make",
            "-Otarget",  # clang writes a line in pieces: those of two would make up a third
            f"O={self.objects}",
            # Set, though empty: kbuild then adds no '+' for a tree that is not at a tag.
            "LOCALVERSION=",
            *self.toolchain.make_arguments(),
            *arguments,
        ]
        log = log or self.objects / "snptest-config.log"
        self._running.touch()
        began = time.monotonic()
        with (
            log.open("w", buffering=1) as sink,
            running(command, self.source, build_environment(**_PINNED)) as make,
        ):
            assert make.stdout is not None
            steps = 0
            for line in make.stdout:
                sink.write(line)
                if fault.STEP.match(line):
                    steps += 1
                    progress.count(steps, expected)
            status = make.wait(MAKE_TIMEOUT)
        if status < 128:  # not killed
            self._running.unlink(missing_ok=True)
        if status:
            if time.monotonic() - began > MAKE_TIMEOUT:
                raise ResourceError(f"make did not end within {MAKE_TIMEOUT:g} s", f"see {log}")
            raise fault.read(log, self._roots()).error(what, keep_log(log))
        return steps

    def _roots(self) -> list[Path]:
        """Return what make puts before names of files in the tree."""
        relative = Path(os.path.relpath(self.source, self.objects))
        return [self.source, relative, self.source.resolve()]


def keep_log(log: Path) -> Path:
    """Keep the log of a failed build, which the next build would overwrite; return where."""
    folder = cache.root() / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    content = log.read_bytes()
    kept = folder / f"{hashlib.sha256(content).hexdigest()[:12]}.log"
    kept.write_bytes(content)
    known = sorted(folder.glob("*.log"), key=lambda each: each.stat().st_mtime)
    for old in known[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return kept


def drop_unfinished(objects: Path) -> list[Path]:
    """Remove what a make that was killed may have left half written; return that.

    Its time stamp would make it look finished.  Those are the files written last.
    """
    written = [
        (os.lstat(path).st_mtime, Path(path))
        for folder, _, names in os.walk(objects)
        for name in names
        if not name.startswith("snptest-")
        for path in (os.path.join(folder, name),)
    ]
    last = max((stamp for stamp, _ in written), default=0.0)
    young = [path for stamp, path in written if stamp > last - UNFINISHED]
    for path in young:
        path.unlink()
    return young


def depends(module: Path) -> set[str]:
    """Return the names of the modules that a module depends on, from its .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return set(match[1].decode().split(",")) - {""} if match else set()


def build_environment(**pinned: str) -> dict[str, str]:
    """Return the environment of a build with ccache: nothing of the caller's that changes it.

    MAKEFLAGS, KBUILD_*, CFLAGS, PKG_CONFIG_PATH... must not leak in.
    """
    keep = ("PATH", "HOME", "TMPDIR")
    root = cache.root()
    return {
        **{name: os.environ[name] for name in keep if name in os.environ},
        **pinned,
        "CCACHE_DIR": str(root / "ccache"),
        "CCACHE_BASEDIR": str(root),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_MAXSIZE": "3G",
    }


def compiler() -> str:
    """Return the C compiler for what is no kernel, behind ccache where that is installed."""
    return "ccache gcc" if shutil.which("ccache") else "gcc"


def compiler_version() -> str:
    """Return what identifies that compiler and its linker, for the cache's keys."""
    return DEFAULT.version()


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, environment: dict[str, str], timeout: float = MAKE_TIMEOUT
) -> Iterator[subprocess.Popen[str]]:
    """Run a command on a leash: nothing of it survives the block, the time-out, or us."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(leash.__file__)), "", *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    overdue = threading.Timer(timeout, process.stdin.close)
    overdue.start()
    try:
        yield process
    finally:
        overdue.cancel()
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
