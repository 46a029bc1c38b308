# SPDX-License-Identifier: GPL-2.0-only
"""The part of a kernel's tree that its KVM selftests are built from, and what tests it has.

It is unpacked from git into a directory of its own: the work trees belong to kernel builds.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.command import captured
from harness.errors import BuildError
from harness.kbuild import KernelBuild, cache
from harness.kbuild.compile import build_environment
from harness.kbuild.gitrun import GitError
from harness.kbuild.tree import KernelTree

KVM = "tools/testing/selftests/kvm"
TO_LIST = ("scripts", "tools/build", "tools/scripts", "tools/testing/selftests")
TO_BUILD = (
    *("Kbuild", "Kconfig", "Makefile", "arch/Kconfig", "arch/x86", "include", "usr"),
    *("tools/arch", "tools/include", "tools/lib"),
    *TO_LIST,
)
LIST_TIMEOUT = 120.0

# Evaluated by make beside the tree's own Makefile, whose variables name the tests, whatever
# version it is; tests and helpers one a line.
_LIST_RULE = """\
snptest-list:
\t@printf 'test %s\\n' $(TEST_GEN_PROGS) $(TEST_PROGS)
\t@printf 'file %s\\n' $(TEST_GEN_PROGS_EXTENDED) $(TEST_FILES) $(TEST_PROGS_EXTENDED)
"""


# What makes a program print KTAP: kselftest.h's functions, kselftest_harness.h and what KVM has
# on top of it.  ksft_exit_skip() alone does not: libkvm calls it for every program.
_RESULTS = re.compile(
    r"\bksft_(?:print_header|set_plan|finished|exit_pass|test_result\w*)\b"
    r"|\b(?:TEST_HARNESS_MAIN|KVM_ONE_VCPU_TEST_SUITE)\b"
)
# A constructor in libkvm prints a seed before main() begins; in 6.12, not yet in 6.9.
_SEED = re.compile(r"\bkvm_selftest_init\(void\)\s*\{[^}]*pr_info\(\"Random seed")


class Prints(enum.StrEnum):
    """What a program's source says that it prints, whenever it ends well."""

    RESULTS = "results"
    """KTAP."""
    SOMETHING = "something"
    """At least a line."""
    MAYBE = "maybe"
    """Nothing, perhaps: its exit status is all there is."""


def prints(source: Path, path: str) -> Prints:
    """Say what a test of an unpacked tree prints."""
    try:
        program = (source / KVM / f"{path}.c").read_text(errors="replace")
    except OSError:
        return Prints.MAYBE  # a script, or made of files with other names
    if _RESULTS.search(program):
        return Prints.RESULTS
    try:
        library = (source / KVM / "lib" / "kvm_util.c").read_text(errors="replace")
    except OSError:
        return Prints.MAYBE
    return Prints.SOMETHING if _SEED.search(library) else Prints.MAYBE


@dataclass(frozen=True, slots=True)
class Listing:
    """What a tree's Makefile says there is, as paths below the folder of the selftests."""

    tests: dict[str, str]
    """By name; the path's last part, unless two are alike."""
    helpers: tuple[str, ...]
    """What tests run or read."""


def home() -> Path:
    """Return the cache's directory for selftests."""
    return cache.root() / "kselftest"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory that is gone afterwards; so are those of processes that were killed."""
    home().mkdir(parents=True, exist_ok=True)
    for stale in home().glob(".new-*"):
        owner = stale.name.removeprefix(".new-")
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(stale, ignore_errors=True)
    folder = home() / f".new-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(kernel: KernelBuild, paths: tuple[str, ...], folder: Path) -> None:
    """Unpack those of the paths that the kernel's tree has; BuildError where it has no tests."""
    tree = KernelTree(cache.root() / "linux")
    folder.mkdir()
    try:
        if not tree.git("ls-tree", "--name-only", kernel.tree, "--", f"{KVM}/Makefile"):
            raise BuildError(f"the tree of kernel {kernel.name} has no {KVM}")
        wanted = _present(tree, kernel.tree, paths)
        while wanted:
            _extract(tree, kernel.tree, wanted, folder)
            # Links lead out of what was unpacked: 6.17's vfio tests to headers of drivers.
            wanted = _present(tree, kernel.tree, _dangling(folder))
    except GitError as error:
        hint = f"build it again: snptest build {kernel.name}"
        raise BuildError(f"the tree of kernel {kernel.name} is not there: {error}", hint) from None


def _present(tree: KernelTree, content: str, paths: Sequence[str]) -> list[str]:
    """Return those of the paths that a tree object has."""
    if not paths:
        return []
    return tree.git("ls-tree", "--name-only", content, "--", *paths).splitlines()


def _extract(tree: KernelTree, content: str, paths: list[str], folder: Path) -> None:
    tarball = folder.with_suffix(".tar")
    tree.git("archive", "--format=tar", "-o", str(tarball), content, "--", *paths)
    command = ["tar", "-xf", str(tarball), "-C", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=600, check=False
    )
    tarball.unlink()
    if done.returncode:
        raise BuildError(f"the selftests' sources could not be unpacked: {done.stderr.strip()}")


def _dangling(folder: Path) -> list[str]:
    """List what links below the selftests lead to and is not there, as paths in the tree."""
    missing = set()
    for place, _, names in os.walk(folder / "tools/testing/selftests"):
        for name in names:
            link = os.path.join(place, name)
            if os.path.islink(link) and not os.path.exists(link):
                target = os.path.realpath(link)
                if os.path.relpath(target, folder).split("/")[0] != "..":
                    missing.add(os.path.relpath(target, folder))
    return sorted(missing)


def environment() -> dict[str, str]:
    """Return make's environment: nothing of the caller's that changes what is built."""
    return build_environment(LC_ALL="C")


def list_tests(source: Path, output: Path) -> Listing:
    """Ask the tree's Makefile what there is."""
    command = ["make", "-s", f"--eval={_LIST_RULE}", f"OUTPUT={output}", "snptest-list"]
    done = captured(
        command,
        LIST_TIMEOUT,
        "make listed no selftests",
        folder=source / KVM,
        environment=environment(),
    )
    listing = read_listing(done.stdout, output)
    if done.returncode or not listing.tests:
        said = done.stderr.strip().splitlines()
        reason = said[0] if said else "it names none"
        raise BuildError(f"{KVM}/Makefile does not tell its tests: {reason}")
    return listing


def read_listing(text: str, output: Path) -> Listing:
    """Read what the rule printed."""
    found: dict[str, list[str]] = {"test": [], "file": []}
    for line in text.splitlines():
        kind, _, path = line.partition(" ")
        relative = path.removeprefix(f"{output}/")
        if kind in found and relative and not relative.startswith("/"):
            found[kind].append(relative)
    tests: dict[str, str] = {}
    for path in dict.fromkeys(found["test"]):
        name = PurePosixPath(path).name
        tests[path if name in tests else name] = path
    return Listing(tests, tuple(dict.fromkeys(found["file"])))
