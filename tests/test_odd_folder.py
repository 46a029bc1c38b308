# SPDX-License-Identifier: GPL-2.0-only
"""The project in a folder whose name has spaces, a comma and an '@', environment and all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import virtme

from tests import test_vng
from tests.marks import real_test
from tests.mutants.mutant import ROOT

update = test_vng.update
NAME = "a b,c@2"
VIRTME_RUN = """\
#!/bin/sh
exec "$(dirname "$0")/python" -c 'import virtme.commands.run as run, sys; sys.exit(run.main())' "$@"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with virtme-ng in an environment of its own; other packages are ours."""
    folder = tmp_path_factory.mktemp("odd") / NAME
    without = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache", "build")
    shutil.copytree(ROOT, folder, ignore=without, symlinks=True)
    venv.create(folder / ".venv", with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / ".venv/lib" / version / "site-packages"
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copytree(Path(virtme.__file__).parent, packages / "virtme")
    script = folder / ".venv/bin/virtme-run"
    script.write_text(VIRTME_RUN)
    script.chmod(0o755)
    return folder


def snptest(project: Path, *words: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the project that is there, as ./snptest does."""
    temporary = project / "t m,p"
    temporary.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(project / ".venv/bin/python"), "-m", "harness", *words],
        cwd=project,
        env={
            **environment,
            "PATH": f"{project}/.venv/bin:{environment['PATH']}",
            "PYTHONPATH": str(project),
            "TMPDIR": str(temporary),
            "SNPTEST_RESULTS": str(project / "re sults"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_the_emulator_works_there(project: Path) -> None:
    done = snptest(project, "run", "-n", "1", "launch", "-k", "test_types", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " pass in " in done.stdout
    assert list((project / "re sults").glob("*/results.jsonl"))


@real_test("boots a kernel", 900)
def test_a_kernel_boots_there(project: Path, update: test_vng.Update) -> None:
    """One command, its working directory with a space; and tests on the agent."""
    name = update.kernel.name
    words: tuple[str, ...]
    words = ("boot", name, "--machine", "stock", "--", "/bin/sh", "-c", 'echo "in $1"', "sh", "x y")
    done = snptest(project, *words, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "in x y\n"
    words = ("run", "-n", "1", "suites/launch/test_types.py", "--kernel", name)
    done = snptest(project, *words, "--machine", "stock", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " pass" in done.stdout
