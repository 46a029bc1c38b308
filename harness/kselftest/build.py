# SPDX-License-Identifier: GPL-2.0-only
"""Building the KVM selftests of the tree that a kernel was built from; kept by content.

kselftest/KEY/ in the cache holds

    bin/             programs and scripts, in the folders that the tree has them in
    selftests.json   names and paths of the tests, and of those that did not compile, why
    build.log

A test that does not compile in some tree is told when it is its turn; the others run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cpus
from harness.errors import UserError
from harness.host_packages import ensure_packages
from harness.hostcpu import need_x86_64
from harness.kbuild import KernelBuild, cache, fault
from harness.kbuild.compile import compiler, compiler_version, keep_log, running
from harness.kbuild.progress import Progress
from harness.kselftest.sources import (
    KVM,
    TO_BUILD,
    TO_LIST,
    Listing,
    Prints,
    environment,
    home,
    list_tests,
    prints,
    scratch,
    unpack,
)

PACKAGES = ("git", "make", "gcc", "binutils", "libc6-dev", "libcap-ng-dev", "ccache")
BUILD_TIMEOUT = 1200.0
RECIPE = 1
"""Part of every key: raise it when the way of building changes what comes out."""
FORMAT = 2
"""Of selftests.json."""
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys")
"""Where a booted kernel mounts something of its own (harness/vng/init.py)."""
_ERROR = re.compile(r": (?:fatal )?error: |undefined reference|cannot find -l|: No rule to make")


@dataclass(frozen=True, slots=True)
class Selftests:
    """The selftests of a tree."""

    directory: Path
    tests: dict[str, str]
    """Name and path below bin/; those that did not compile are among them."""
    failed: dict[str, str]
    """Of those that did not compile, the compiler's line."""
    prints: dict[str, Prints]
    """What each prints when it ends well, by its source."""

    def program(self, name: str) -> Path:
        """Return the file to run."""
        return self.directory / "bin" / self.tests[name]

    @property
    def log(self) -> Path:
        """What make printed."""
        return self.directory / "build.log"


def key_of(kernel: KernelBuild) -> str:
    """Hash everything that decides what is built."""
    content = hashlib.sha256()
    for part in (str(RECIPE), kernel.tree, compiler_version()):
        content.update(part.encode() + b"\0")
    return content.hexdigest()[:20]


def find(kernel: KernelBuild) -> Selftests | None:
    """Return what is in the cache."""
    directory = home() / key_of(kernel)
    record = cache.read_json(directory / "selftests.json")
    if record is None or record.get("format") != FORMAT:
        return None
    prints = {name: Prints(each) for name, each in record["prints"].items()}
    return Selftests(directory, dict(record["tests"]), dict(record["failed"]), prints)


def listing(kernel: KernelBuild) -> dict[str, str]:
    """Return name and path of the tests that a kernel's tree has, without building them."""
    built = find(kernel)
    if built is not None:
        return built.tests
    with scratch() as folder:
        unpack(kernel, TO_LIST, folder / "src")
        return list_tests(folder / "src", folder / "out").tests


def check_visible() -> None:
    """Raise UserError where a kernel that is booted does not see the cache."""
    root = cache.root().resolve()
    for place in HIDDEN:
        if root.is_relative_to(place):
            raise UserError(
                f"selftests in {root} cannot be run: a booted kernel has a {place} of its own",
                "let XDG_CACHE_HOME name a folder elsewhere",
            )


def build(
    kernel: KernelBuild,
    *,
    again: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Selftests:
    """Build a kernel's selftests, or find them in the cache; BuildError where none compiles."""
    known = None if again else find(kernel)
    if known is not None:
        return known
    progress = progress or Progress()
    need_x86_64("building selftests")
    cache.check_buildable("selftests")
    ensure_packages(PACKAGES, "for building selftests", say)
    directory = home() / key_of(kernel)
    with scratch() as folder:
        source, kept = folder / "src", folder / "kept"
        progress.stage(f"unpacking the selftests of {kernel.name}")
        unpack(kernel, TO_BUILD, source)
        kept.mkdir()
        found = _make(source, folder / "out", kept / "build.log", progress)
        failed = _keep(found, folder / "out", source / KVM, kept)
        if len(failed) == len(found.tests):
            log = kept / "build.log"
            raise fault.read(log, [source]).error("the selftests", keep_log(log))
        printing = {name: prints(source, path) for name, path in found.tests.items()}
        record = {
            "format": FORMAT,
            "tree": kernel.tree,
            "tests": found.tests,
            "failed": failed,
            "prints": printing,
        }
        cache.write_json(kept / "selftests.json", record)
        _put(kept, directory)
    return Selftests(directory, found.tests, failed, printing)


def _make(source: Path, output: Path, log: Path, progress: Progress) -> Listing:
    """Compile all that compiles."""
    jobs = f"-j{cpus.usable()}"
    with log.open("w", buffering=1) as sink:
        progress.stage("installing the kernel's headers")
        _run(["make", jobs, "ARCH=x86", "headers"], source, sink.write)
    headers = source / "usr" / "include"
    if not (headers / "linux" / "kvm.h").is_file():
        raise fault.read(log, [source]).error("the kernel's headers", keep_log(log))
    found = list_tests(source, output)
    progress.stage(f"compiling {len(found.tests)} selftests")
    # An object and a program each, and the library they share.
    expected = 2 * len(found.tests) + 25
    steps = 0

    def note(line: str) -> None:
        nonlocal steps
        sink.write(line)
        if " -o " in line:
            steps += 1
            progress.count(steps, expected)

    command = [
        # -k: what does not compile must not keep the rest from it; -O: errors stay together.
        *("make", "-k", "-Otarget", jobs, f"OUTPUT={output}", f"CC={compiler()}"),
        *(f"LINUX_HDR_PATH={headers}/", f"KHDR_INCLUDES=-isystem {headers}", "all"),
    ]
    with log.open("a", buffering=1) as sink:
        _run(command, source / KVM, note)
    return found


def _run(command: Sequence[str], folder: Path, note: Callable[[str], object]) -> None:
    """Run make; whether it did what it should is seen by what is there afterwards."""
    with running(list(command), folder, environment(), BUILD_TIMEOUT) as make:
        assert make.stdout is not None
        for line in make.stdout:
            note(line)
        make.wait(BUILD_TIMEOUT)


def _keep(found: Listing, output: Path, source: Path, kept: Path) -> dict[str, str]:
    """Copy what was made; return what was not, with the reason."""
    lines = (kept / "build.log").read_text(errors="replace").splitlines()
    failed = {}
    for name, path in found.tests.items():
        if not _copy(path, output, source, kept):
            # The folder is gone by the time this is read; what is below it is in the tree, too.
            root = str(source).removesuffix(KVM)
            failed[name] = complaint(lines, str(output / path)).replace(root, "")
    for path in found.helpers:
        _copy(path, output, source, kept)
    return failed


def _copy(path: str, output: Path, source: Path, kept: Path) -> bool:
    """Copy a program, or a script that the tree has as it is."""
    for file in (output / path, source / path):
        if file.is_file():
            target = kept / "bin" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
            return True
    return False


def complaint(lines: list[str], target: str) -> str:
    """Return the first error of a target in make's output, else the first of all."""
    begin = re.compile(rf" -o {re.escape(target)}(?:\.o)?$")
    inside = False
    first = ""
    for line in lines:
        if " -o " in line:
            inside = bool(begin.search(line.rstrip()))
        if _ERROR.search(line):
            if inside:
                return line.strip()
            first = first or line.strip()
    return first or "make did not say why"


def _put(kept: Path, directory: Path) -> None:
    """Put what was built where it belongs, whole or not at all."""
    kept.chmod(0o755)
    old = kept.with_name("old")
    if directory.exists():
        directory.rename(old)
    try:
        kept.rename(directory)
    except OSError:
        # Another process was faster; what it has built is the same.
        if not (directory / "selftests.json").is_file():
            raise
