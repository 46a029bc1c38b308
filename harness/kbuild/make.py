# SPDX-License-Identifier: GPL-2.0-only
"""From a commit to a built kernel: check out, configure, compile, keep what is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import BuildError
from harness.kbuild import cache
from harness.kbuild.compile import Compiler, depends
from harness.kbuild.config import Fragment, allconfig, check_config, read_config, wanted_symbols
from harness.kbuild.estimate import steps_left
from harness.kbuild.kernel import FORMAT
from harness.kbuild.own import build_own
from harness.kbuild.progress import Progress
from harness.kbuild.toolchain import DEFAULT, Toolchain
from harness.kbuild.tree import KernelTree

BOOT_MODULES = frozenset({"kvm", "kvm_amd"})
"""What every boot loads, with what it depends on."""
STATE = "snptest-state.json"
"""In an object directory: what was configured, built and kept there last."""

_CONFIGURING = re.compile(r"(?:^|/)Kconfig[^/]*$|^scripts/|^Makefile$|^arch/x86/Makefile")
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
    label: str = "",
    toolchain: Toolchain = DEFAULT,
) -> None:
    """Compile a commit and put the result where its key belongs, whole or not at all.

    `label` goes before what the progress says.
    """
    began = time.monotonic()
    version = tree.version_of(commit)
    progress.stage(f"{label}checking out")
    source = tree.check_out_version(commit)
    name = objects_name([each.name for each in fragments], version, toolchain.tag)
    make = Compiler(source, cache.root() / "build" / name, toolchain)
    config, expected = _configure(make, tree, commit, fragments, progress, label)
    progress.stage(f"{label}compiling")
    log = cache.root() / "build.log"
    make.build(log, progress, expected)
    _remember(make.objects, built=commit)
    progress.stage(f"{label}keeping the kernel")
    before = (cache.read_json(make.objects / STATE) or {}).get("kept")
    like = directory.with_name(str(before)) if before else None
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        boot, extra = _split(make.modules())
        extra += build_own(make, tree, commit, config)
        for image in ("arch/x86/boot/bzImage", "vmlinux", "System.map"):
            cache.keep(make.objects / image, scratch, like)
        _keep_modules(boot + extra, scratch, toolchain.tool("strip"))
        _keep_scripts(source, scratch / "scripts")
        (scratch / "config").write_text(config)
        shutil.copy2(log, scratch / "build.log")
        built = _Built(
            release=make.release(),
            version=version,
            tree=tree.tree_of(commit),
            compiler=toolchain.version(),
            modules=[each.name for each in boot],
            extra_modules=[each.name for each in extra],
            seconds=round(time.monotonic() - began, 1),
        )
        cache.write_json(scratch / "kernel.json", asdict(built))
        scratch.chmod(0o755)
        if directory.exists():  # left without its kernel.json, or of an older format
            shutil.rmtree(directory)
        os.rename(scratch, directory)
        _remember(make.objects, kept=directory.name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _configure(
    make: Compiler,
    tree: KernelTree,
    commit: str,
    fragments: list[Fragment],
    progress: Progress,
    label: str,
) -> tuple[str, int | None]:
    """Make the configuration; return it and how many steps the build will take, if known.

    Where neither what is asked for nor anything that Kconfig reads has changed since it was
    last made here, it is taken as it is: that saves a second of every edit.
    """
    wanted = wanted_symbols(fragments, tree.version_of(commit))
    known = cache.read_json(make.objects / STATE) or {}
    file = make.objects / ".config"
    before = file.read_text() if file.exists() else ""
    asked = [allconfig(wanted), make.toolchain.version()]
    changed = tree.changed_files(str(known.get("configured")), commit)
    if before and asked == known.get("asked") and changed is not None:
        fresh = not any(_CONFIGURING.search(path) for path in changed)
    else:
        fresh = False
    if not fresh:
        progress.stage(f"{label}configuring")
        make.configure(asked[0])
    config = file.read_text()
    check_config(wanted, config)
    _remember(make.objects, configured=commit, asked=asked)
    changed = tree.changed_files(str(known.get("built")), commit)
    if changed is None:
        return config, None
    old, new = read_config(before), read_config(config)
    symbols = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    return config, steps_left(make.objects, make.source, changed, symbols)


def _remember(objects: Path, **state: object) -> None:
    """Note in an object directory what it was made of."""
    cache.write_json(objects / STATE, {**(cache.read_json(objects / STATE) or {}), **state})


def objects_name(fragments: Sequence[str], version: Sequence[int], toolchain: str = "") -> str:
    """Name the object directory: one for each configuration, major.minor version and toolchain.

    Point releases share it, for they differ little; ccache has the rest.  `toolchain` is
    Toolchain.tag.
    """
    name = f"{'+'.join(fragments)}-{version[0]}.{version[1]}"
    return f"{name}-{toolchain}" if toolchain else name


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


def _keep_modules(modules: list[Path], scratch: Path, strip: str) -> None:
    """Copy modules twice: as they are into debug/, and small for the target."""
    (scratch / "debug").mkdir()
    for module in modules:
        shutil.copy2(module, scratch / "debug")
        command = [strip, "--strip-debug", "-o", str(scratch / module.name), str(module)]
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
