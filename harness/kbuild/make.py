# SPDX-License-Identifier: GPL-2.0-only
"""From a commit to a built kernel: check out, configure, compile, keep what is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import BuildError
from harness.kbuild import cache
from harness.kbuild.compile import Compiler, compiler_version, depends
from harness.kbuild.config import Fragment, allconfig, check_config, wanted_symbols
from harness.kbuild.kernel import FORMAT
from harness.kbuild.progress import Progress
from harness.kbuild.tree import KernelTree

BOOT_MODULES = frozenset({"kvm", "kvm_amd"})
"""What every boot loads, with what it depends on."""
SCRIPTS = ("decode_stacktrace.sh", "faddr2line")


@dataclass(frozen=True, slots=True)
class _Built:
    """What kernel.json holds: what follows from the content alone."""

    release: str
    version: tuple[int, int, int]
    tree: str
    compiler: str
    modules: list[str]
    extra_modules: list[str]
    seconds: float
    format: int = FORMAT


def make_kernel(
    directory: Path,
    tree: KernelTree,
    commit: str,
    fragments: list[Fragment],
    progress: Progress,
) -> None:
    """Compile a commit and put the result where its key belongs, whole or not at all."""
    began = time.monotonic()
    version = tree.version_of(commit)
    progress.stage("checking out")
    source = tree.check_out_version(commit)
    make = Compiler(source, objects_of(fragments, version))
    progress.stage("configuring")
    wanted = wanted_symbols(fragments, version)
    config = make.configure(allconfig(wanted))
    check_config(wanted, config)
    progress.stage("compiling")
    log = cache.root() / "build.log"
    make.build(log, progress)
    progress.stage("keeping the kernel")
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        boot, extra = _split(make.modules())
        for image in ("arch/x86/boot/bzImage", "vmlinux", "System.map"):
            shutil.copy2(make.objects / image, scratch)
        _keep_modules(boot + extra, scratch)
        _keep_scripts(source, scratch / "scripts")
        (scratch / "config").write_text(config)
        shutil.copy2(log, scratch / "build.log")
        built = _Built(
            release=make.release(),
            version=version,
            tree=tree.tree_of(commit),
            compiler=compiler_version(),
            modules=[each.name for each in boot],
            extra_modules=[each.name for each in extra],
            seconds=round(time.monotonic() - began, 1),
        )
        cache.write_json(scratch / "kernel.json", asdict(built))
        scratch.chmod(0o755)
        if directory.exists():  # left without its kernel.json, or of an older format
            shutil.rmtree(directory)
        os.rename(scratch, directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def objects_of(fragments: list[Fragment], version: tuple[int, int, int]) -> Path:
    """Return the object directory: one for each configuration and major.minor version.

    Point releases share it, for they differ little; ccache has the rest.
    """
    names = "+".join(each.name for each in fragments)
    return cache.root() / "build" / f"{names}-{version[0]}.{version[1]}"


def _split(modules: list[Path]) -> tuple[list[Path], list[Path]]:
    """Part what a boot loads from other modules; both stay in order."""
    needed = {each.stem.replace("-", "_"): depends(each) for each in modules}
    boot: set[str] = set()
    waiting = BOOT_MODULES & needed.keys()
    while waiting:
        boot |= waiting
        waiting = frozenset().union(*(needed[name] for name in waiting)) & needed.keys() - boot
    chosen = [each for each in modules if each.stem.replace("-", "_") in boot]
    return chosen, [each for each in modules if each not in chosen]


def _keep_modules(modules: list[Path], scratch: Path) -> None:
    """Copy modules twice: as they are into debug/, and small for the target."""
    (scratch / "debug").mkdir()
    for module in modules:
        shutil.copy2(module, scratch / "debug")
        command = ["strip", "--strip-debug", "-o", str(scratch / module.name), str(module)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
        if done.returncode:
            raise BuildError(f"{module.name} could not be stripped: {done.stderr.strip()}")


def _keep_scripts(source: Path, folder: Path) -> None:
    folder.mkdir()
    for name in SCRIPTS:
        script = source / "scripts" / name
        if script.is_file():
            shutil.copy2(script, folder)
