# SPDX-License-Identifier: GPL-2.0-only
"""Building selftests: from git alone, kept by content, one that does not compile loses no other."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kbuild
from harness.cli import kselftest as command
from harness.errors import BuildError, UsageError, UserError
from harness.kbuild import cache
from harness.kbuild.tree import KernelTree
from harness.kselftest import build, sources
from tests import fakekernel
from tests.fakekernel import git

TOP = """\
headers:
\t@mkdir -p usr/include/linux
\t@echo '#define KVM 7' > usr/include/linux/kvm.h
"""
# As lib.mk has it: programs with the output directory before them, one linked from one object.
SELFTESTS = """\
all:
TEST_GEN_PROGS := $(patsubst %,$(OUTPUT)/%,guest_memfd_test x86_64/good x86_64/broken)
TEST_GEN_PROGS_EXTENDED := $(OUTPUT)/x86_64/helper
TEST_PROGS := x86_64/script.sh
$(shell mkdir -p $(OUTPUT)/x86_64)
all: $(TEST_GEN_PROGS) $(TEST_GEN_PROGS_EXTENDED)
$(OUTPUT)/%.o: %.c
\t$(CC) $(KHDR_INCLUDES) -c $< -o $@
$(OUTPUT)/%: $(OUTPUT)/%.o
\t$(CC) $< -o $@
"""
GOOD = "#include <linux/kvm.h>\nint main(void) { return KVM; }\n"
BROKEN = "#include <linux/kvm.h>\nint main(void) { return KVM_CAP_OF_TOMORROW; }\n"
FILES = {
    "Makefile": TOP,
    "arch/x86/Kconfig": "",
    "scripts/script": "",
    "drivers/driver.c": "not needed\n",
    f"{sources.KVM}/Makefile": SELFTESTS,
    f"{sources.KVM}/guest_memfd_test.c": GOOD,
    f"{sources.KVM}/x86_64/good.c": GOOD,
    f"{sources.KVM}/x86_64/broken.c": BROKEN,
    f"{sources.KVM}/x86_64/helper.c": GOOD,
    f"{sources.KVM}/x86_64/script.sh": "#!/bin/sh\nexec $(dirname $0)/helper\n",
}

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("make") is None, reason="needs gcc and make"
)
pytestmark = [needs_compiler, pytest.mark.deadline(120)]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kbuild.KernelBuild:
    """A kernel, as far as its selftests are concerned: a tree object in the repository."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "ensure_packages", lambda *_: None)
    monkeypatch.setenv("MAKEFLAGS", "--no-such-option")  # must not reach make
    KernelTree(cache.root() / "linux")
    return with_files(FILES)


def with_files(files: dict[str, str]) -> kbuild.KernelBuild:
    path = cache.root() / "linux"
    git(path, "rm", "-rqf", "--ignore-unmatch", ".")
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
        (path / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    git(path, "add", "-f", ".")
    git(path, "commit", "-qm", "tree")
    commit = git(path, "rev-parse", "HEAD")
    return fakekernel.kernel_build(path, tree=git(path, "rev-parse", "HEAD^{tree}"), commit=commit)


class Recorder(kbuild.Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.counts: list[tuple[int, int | None]] = []

    def stage(self, what: str) -> None:
        self.stages.append(what)

    def count(self, done: int, total: int | None = None) -> None:
        self.counts.append((done, total))


def test_one_that_does_not_compile_loses_no_other(kernel: kbuild.KernelBuild) -> None:
    progress = Recorder()
    built = build.build(kernel, progress=progress)
    assert list(built.tests) == ["guest_memfd_test", "good", "broken", "script.sh"]
    assert built.failed.keys() == {"broken"}
    assert "x86_64/broken.c:2" in built.failed["broken"]
    assert "error: 'KVM_CAP_OF_TOMORROW' undeclared" in built.failed["broken"]
    for name in ("guest_memfd_test", "good", "script.sh"):
        assert subprocess.run([built.program(name)], timeout=10, check=False).returncode == 7
    assert "broken.c" in built.log.read_text()
    assert progress.stages[-1] == "compiling 4 selftests"
    assert [done for done, _ in progress.counts] == list(range(1, len(progress.counts) + 1))


def test_what_was_built_is_found_again(kernel: kbuild.KernelBuild) -> None:
    assert build.find(kernel) is None
    first = build.build(kernel)
    stamp = first.program("good").stat().st_mtime_ns
    again = build.build(replace(kernel, name="other", release="x"))
    assert again == first == build.find(kernel)
    assert again.program("good").stat().st_mtime_ns == stamp
    assert build.build(kernel, again=True) == first
    assert first.program("good").stat().st_mtime_ns != stamp


def test_another_tree_gives_other_selftests(kernel: kbuild.KernelBuild) -> None:
    first = build.build(kernel)
    changed = with_files({**FILES, f"{sources.KVM}/x86_64/broken.c": GOOD})
    second = build.build(changed)
    assert second.directory != first.directory
    assert not second.failed
    assert build.find(kernel) == first


def test_nothing_is_left_behind_and_no_work_tree_is_touched(kernel: kbuild.KernelBuild) -> None:
    tree = cache.root() / "linux"
    (tree / "Makefile").write_text("a kernel build is under way here\n")
    stale = sources.home() / ".new-999999999"
    stale.mkdir(parents=True)
    ours = sources.home() / ".new-1"
    ours.mkdir()
    built = build.build(kernel)
    assert {each.name for each in sources.home().iterdir()} == {".new-1", built.directory.name}
    assert git(tree, "status", "--short") == "M Makefile"


def test_what_links_lead_to_is_there(kernel: kbuild.KernelBuild) -> None:
    """Upstream's tests have links into parts of the tree that are not theirs."""
    link = cache.root() / "linux" / sources.KVM / "x86_64" / "driver.h"
    link.symlink_to("../../../../../drivers/driver.h")
    link.with_name("nowhere.h").symlink_to("/nowhere/at/all.h")
    link.with_name("lost.h").symlink_to("../lost.h")
    source = '#include "driver.h"\nint main(void) { return DRIVER; }\n'
    linked = with_files(
        {
            **FILES,
            "drivers/driver.h": "#define DRIVER 9\n",
            f"{sources.KVM}/x86_64/good.c": source,
        }
    )
    built = build.build(linked)
    assert subprocess.run([built.program("good")], timeout=10, check=False).returncode == 9


def test_where_nothing_compiles_the_first_error_is_told(kernel: kbuild.KernelBuild) -> None:
    files = {name: BROKEN if name.endswith(".c") else text for name, text in FILES.items()}
    files[f"{sources.KVM}/Makefile"] = SELFTESTS.replace("TEST_PROGS := x86_64/script.sh", "")
    with pytest.raises(BuildError, match=r"the selftests did not build: .*_OF_TOMORROW") as caught:
        build.build(with_files(files))
    assert build.find(kernel) is None
    assert Path(caught.value.hint.removeprefix("all of it: ")).is_file()


def test_headers_that_do_not_install_are_told(kernel: kbuild.KernelBuild) -> None:
    broken = with_files({**FILES, "Makefile": "headers:\n\t@echo 'a.c:1: error: no' ; false\n"})
    with pytest.raises(BuildError, match=r"kernel's headers did not build: a\.c:1: error: no"):
        build.build(broken)


def test_a_tree_without_selftests(kernel: kbuild.KernelBuild) -> None:
    bare = with_files({name: text for name, text in FILES.items() if sources.KVM not in name})
    with pytest.raises(BuildError, match="has no tools/testing/selftests/kvm"):
        build.build(bare)
    with pytest.raises(BuildError, match="is not there"):
        build.build(replace(kernel, tree="1" * 40))


def test_the_list_needs_no_build(kernel: kbuild.KernelBuild) -> None:
    assert build.listing(kernel)["broken"] == "x86_64/broken"
    assert build.find(kernel) is None
    assert not list(sources.home().iterdir())


def test_two_of_a_name_keep_their_paths() -> None:
    text = "test /o/a/x\ntest /o/b/x\ntest y.sh\nfile /o/z\nfile \nnoise\n"
    listing = sources.read_listing(text, Path("/o"))
    assert listing.tests == {"x": "a/x", "b/x": "b/x", "y.sh": "y.sh"}
    assert listing.helpers == ("z",)


def test_errors_are_those_of_the_target() -> None:
    lines = [
        "gcc -c a.c -o /o/a.o",
        "a.c:1:1: warning: fishy",
        "a.c:2:1: error: wrong in a",
        "make: *** [Makefile:9: /o/a.o] Error 1",
        "gcc /o/b.o -o /o/b",
        "b.c:(.text+0x1): undefined reference to `f'",
    ]
    assert build.complaint(lines, "/o/a") == "a.c:2:1: error: wrong in a"
    assert build.complaint(lines, "/o/b") == "b.c:(.text+0x1): undefined reference to `f'"
    # Not compiled because something else was not.
    assert build.complaint(lines, "/o/c") == "a.c:2:1: error: wrong in a"
    assert build.complaint([], "/o/c") == "make did not say why"


def test_a_cache_that_the_guest_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/x")
    with pytest.raises(UserError, match="a booted kernel has a /var/tmp of its own"):
        build.check_visible()
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmpfoo")
    build.check_visible()


def test_hidden_places_are_what_the_guest_mounts() -> None:
    from harness.vng import init

    mounted = [target for _, target, _ in init._MOUNTS]
    for target in mounted:
        assert any(Path(target).is_relative_to(each) for each in build.HIDDEN), target


def test_names_on_the_command_line() -> None:
    names = ["sev_smoke_test", "sev_init2_tests", "debug_regs"]
    assert command.choose(names, ["sev_*"]) == names[:2]
    assert command.choose(names, ["debug_regs", "sev_*", "*"]) == ["debug_regs", *names[:2]]
    assert command.choose(names, ["x86_64/debug_regs"]) == ["debug_regs"]
    with pytest.raises(UsageError, match=r"no selftest 'sev_smok' .*sev_smoke_test"):
        command.choose(names, ["sev_smok"])
