# SPDX-License-Identifier: GPL-2.0-only
"""The reason of a failed build: the first error of what compilers, linkers and make print."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness import host_packages
from harness.errors import BuildError, ResourceError
from harness.kbuild import fault
from harness.kbuild.remedies import remedies

WARNED = """\
  CC      warn.o
warn.c:1:6: warning: "/*" within comment [-Wcomment]
    1 | /* a /* b */
      |
warn.c: In function 'f':
warn.c:3:24: warning: initialization of 'int *' from 'int' makes pointer [-Wint-conversion]
    3 | int f(void) { int *p = 1; return q; }
      |                        ^
warn.c:3:34: error: 'q' undeclared (first use in this function)
    3 | int f(void) { int *p = 1; return q; }
      |                                  ^
warn.c:3:34: note: each undeclared identifier is reported only once
make[3]: *** [scripts/Makefile.build:229: warn.o] Error 1
"""
CLANG = """\
warn.c:1:6: warning: '/*' within block comment [-Wcomment]
/* a /* b */
     ^
log.c:7:3: warning: unused variable 'p' [-Wunused-variable]
        pr_err("log: error: %d\\n", p);
        ^
warn.c:3:34: error: use of undeclared identifier 'q'
int f(void) { int *p = 1; return q; }
                                 ^
2 warnings and 1 error generated.
"""
BUILD_BUG = """\
In file included from bug.c:1:
In function 'check',
    inlined from 'g' at bug.c:5:2:
inc/build_bug.h:1:101: error: call to 'fail_1' declared with attribute error: BUILD_BUG_ON failed
    1 | #define compiletime_assert(c, m) do { extern void fail_1(void); } while (0)
      |                                                   ^~~~~~~~
inc/types.h:524:25: note: in definition of macro '__compiletime_assert'
  524 |                         prefix ## suffix();
      |                         ^~~~~~
inc/types.h:543:9: note: in expansion of macro '_compiletime_assert'
  543 |         _compiletime_assert(condition, msg, __compiletime_assert_, __COUNTER__)
      |         ^~~~~~~~~~~~~~~~~~~
inc/build_bug.h:2:25: note: in expansion of macro 'compiletime_assert'
    2 | #define BUILD_BUG_ON(c) compiletime_assert(!(c), "BUILD_BUG_ON failed: " #c)
      |                         ^~~~~~~~~~~~~~~~~~
bug.c:2:34: note: in expansion of macro 'BUILD_BUG_ON'
"""
INLINED = """\
In function 'check',
    inlined from 'inner' at include/inner.h:7:2,
    inlined from 'outer' at kvm/outer.c:9:3:
include/compiler_types.h:397:45: error: call to 'fail_1' declared with attribute error: no
"""
WERROR = """\
werr.c: In function 'f':
werr.c:1:26: error: unused variable 'unused' [-Werror=unused-variable]
    1 | static int f(void) { int unused; return 0; }
      |                          ^~~~~~
cc1: all warnings being treated as errors
"""
AS_FATAL = """\
x.S: Assembler messages:
x.S:2: Warning: value 0x100 truncated to 0x0
x.S: 1 warning, treating warnings as errors
make[2]: *** [scripts/Makefile.build:300: x.o] Error 1
"""
ASSEMBLER = """\
bad.S: Assembler messages:
bad.S:1: Error: no such instruction: `bogus %rax'
"""
LD = """\
  LD      vmlinux
ld: warning: vmlinux has a LOAD segment with RWX permissions
ld: arch/x86/kvm/svm/sev.o: in function `sev_x':
sev.c:(.text+0x5): undefined reference to `foo'
collect2: error: ld returned 1 exit status
"""
TWICE = """\
ld: t.o: in function `bar':
twice.c:(.text+0x0): multiple definition of `bar'; u.o:undef.c:(.text+0x0): first defined here
"""
LLD = """\
  LD [M]  arch/x86/kvm/kvm.o
ld.lld: error: undefined symbol: foo
>>> referenced by sev.c:123 (arch/x86/kvm/svm/sev.c:123)
>>>               vmlinux.o:(sev_x)
make[2]: *** [scripts/Makefile.vmlinux:34: vmlinux] Error 1
"""
MODPOST = """\
WARNING: modpost: missing MODULE_DESCRIPTION() in a.o
ERROR: modpost: "sev_x" [arch/x86/kvm/kvm-amd.ko] undefined!
make[3]: *** [scripts/Makefile.modpost:145: Module.symvers] Error 1
"""
OBJTOOL = """\
vmlinux.o: warning: objtool: f+0x1: unreachable instruction
vmlinux.o: error: objtool: g+0x2: stack state mismatch
"""
KCONFIG = """\
arch/x86/Kconfig:3:warning: defaults for choice values not supported
arch/x86/kvm/Kconfig:12: unknown statement "dependson"
make[2]: *** [scripts/kconfig/Makefile:95: allnoconfig] Error 1
"""
RECURSION = """\
arch/x86/kvm/Kconfig:5:error: recursive dependency detected!
arch/x86/kvm/Kconfig:5:\tsymbol A depends on B
"""
RULE = """\
  CC      a.o
make[4]: *** No rule to make target 'kvm/gone.o', needed by 'kvm/built-in.a'.  Stop.
make[3]: *** [scripts/Makefile.build:478: kvm] Error 2
"""
MIXED = """\
  CC      b.o
b.c:9:2: warning: unused variable 'y' [-Wunused-variable]
  CC      c.o
make[3]: *** [scripts/Makefile.build:229: a.o] Error 1
a.c:3:1: error: expected ';'
make[3]: *** Waiting for unfinished jobs....
"""
TOOL_SAID = """\
  CC      a.o
bison: unrecognized option '--foo'
Try 'bison --help' for more information.
make: *** [Makefile:2: a.o] Error 1
"""
GCC_15 = """\
In file included from ./include/uapi/linux/posix_types.h:5,
                 from arch/x86/realmode/rm/wakemain.c:2:
./include/linux/stddef.h:11:9: error: cannot use keyword 'false' as enumeration constant
   11 |         false   = 0,
./include/linux/stddef.h:11:9: note: 'false' is a keyword with '-std=c23' onwards
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (WARNED, "warn.c:3:34: error: 'q' undeclared (first use in this function)"),
        (CLANG, "warn.c:3:34: error: use of undeclared identifier 'q'"),
        (
            BUILD_BUG,
            "bug.c:2:34: error: call to 'fail_1' declared with attribute error: "
            "BUILD_BUG_ON failed",
        ),
        (INLINED, "kvm/outer.c:9:3: error: call to 'fail_1' declared with attribute error: no"),
        (WERROR, "werr.c:1:26: error: unused variable 'unused' [-Werror=unused-variable]"),
        (AS_FATAL, "x.S:2: Warning: value 0x100 truncated to 0x0"),
        (ASSEMBLER, "bad.S:1: Error: no such instruction: `bogus %rax'"),
        (
            LD,
            "sev.c:(.text+0x5): undefined reference to `foo' (arch/x86/kvm/svm/sev.o, sev_x)",
        ),
        (TWICE, TWICE.splitlines()[1]),
        (LLD, "ld.lld: error: undefined symbol: foo (sev.c:123)"),
        (MODPOST, 'ERROR: modpost: "sev_x" [arch/x86/kvm/kvm-amd.ko] undefined!'),
        (OBJTOOL, "vmlinux.o: error: objtool: g+0x2: stack state mismatch"),
        (KCONFIG, 'arch/x86/kvm/Kconfig:12: unknown statement "dependson"'),
        (
            RECURSION,
            "arch/x86/kvm/Kconfig:5:error: recursive dependency detected! "
            "(arch/x86/kvm/Kconfig:5: symbol A depends on B)",
        ),
        (
            "error: recursive dependency detected!\n\tsymbol A depends on B\n\tsymbol B depends\n",
            "error: recursive dependency detected! (symbol A depends on B)",
        ),
        (
            'x/Kconfig:5: syntax error\nx/Kconfig:5: unknown statement "foo"\nx/Kconfig:6: more\n',
            'x/Kconfig:5: unknown statement "foo"',
        ),
        (RULE, "No rule to make target 'kvm/gone.o', needed by 'kvm/built-in.a'.  Stop."),
        ("Makefile:4: *** missing separator.  Stop.\n", "Makefile:4: *** missing separator. Stop."),
        (MIXED, "a.c:3:1: error: expected ';'"),
        (TOOL_SAID, "bison: unrecognized option '--foo' ([Makefile:2: a.o] Error 1)"),
        ("a\nlast words\n\n", "last words"),
        ("", "its log is empty"),
    ],
)
def test_the_reason_is_the_first_error(log: str, reason: str) -> None:
    found = fault.find(log.splitlines())
    assert found.reason == " ".join(reason.split())
    assert not found.innocent


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("make[3]: *** [scripts/Makefile.build:229: kvm/x86.o] Killed", "memory"),
        ("gcc: fatal error: Killed signal terminated program cc1", "memory"),
        ("clang: error: unable to execute command: Killed", "memory"),
        ("cc1: out of memory allocating 65536 bytes", "memory"),
        ("a.c:1:1: fatal error: error writing to /tmp/x.s: No space left on device", "disk"),
        ("a.c:1:1: internal compiler error: Segmentation fault", "compiler itself"),
        ("/bin/sh: 1: flex: not found", "not installed"),
        ("make: flex: No such file or directory", "not installed"),
        ("scripts/x.sh: line 12: pahole: command not found", "not installed"),
        ("certs/x.c:7:10: fatal error: openssl/bio.h: No such file or directory", "libssl-dev"),
        ("x/main.c:7:10: fatal error: gelf.h: No such file or directory", "libelf-dev"),
        ("touch: cannot touch 'include/x': Permission denied", "chown"),
        ("scripts/Kconfig.include:39: C compiler 'gcc-99' not found", "CC="),
    ],
)
def test_what_the_computer_lacks_is_not_blamed_on_the_sources(line: str, hint: str) -> None:
    found = fault.find(["  CC      a.o", line, "make: *** [Makefile:1: all] Error 2"])
    assert found.innocent
    error = found.error("the kernel", Path("/log"))
    assert isinstance(error, ResourceError)
    assert error.headline.startswith("the kernel was not built, which is not its fault: ")
    assert hint in error.hint
    assert error.hint.endswith("all of it: /log")


def test_words_of_the_sources_are_no_word_of_the_computer() -> None:
    """Neither in the line that is shown with an error nor in what it quotes."""
    shown = [
        "mm/oom_kill.c:950:9: error: too few arguments to function 'pr_err'",
        '  950 |  pr_err("Out of memory: Killed process, No space left on device");',
        "mm/oom_kill.c:951:2: note: declared here",
    ]
    quoted = ["mm/x.c:1:2: error: 'Killed' undeclared (first use in this function)"]
    linked = ["x.c:(.text+0x1): undefined reference to `Killed'"]
    modpost = ['ERROR: modpost: "Killed" [a.ko] undefined!']
    for lines in (shown, quoted, linked, modpost):
        found = fault.find(lines)
        assert found.reason == lines[0]
        assert not found.innocent


def test_a_compiler_that_crashed_is_told() -> None:
    found = fault.find(
        [
            "PLEASE submit a bug report to https://example.org and include the crash backtrace",
            "Stack dump:",
            "clang: error: clang frontend command failed with exit code 139 (use -v to see it)",
            "make[3]: *** [scripts/Makefile.build:229: a.o] Error 1",
        ]
    )
    assert found.innocent
    assert "another one" in found.error("it", "LOG").hint


def test_a_real_error_counts_more_than_one_of_the_computer() -> None:
    """But for a full disk, which makes errors of its own."""
    real = "a.c:1:1: error: unknown type name 'foo'"
    assert fault.find(["make: *** [Makefile:1: b.o] Killed", real]).reason == real
    full = "b.c:1:1: fatal error: error writing to b.s: No space left on device"
    assert fault.find([real, full]).reason == full


def test_remedies_are_added_to_the_reason() -> None:
    """What gcc 15 makes of sources from before it; a script that lost its mode."""
    error = fault.find(GCC_15.splitlines()).error("the kernel", "LOG")
    assert type(error) is BuildError
    assert "include/linux/stddef.h:11:9: error: cannot use keyword 'false'" in error.headline
    assert "gcc 15" in error.hint
    assert "CC=gcc-14" in error.hint
    error = fault.find(["/bin/sh: 1: ./scripts/x.sh: Permission denied"]).error("it", "LOG")
    assert "mode" in error.hint
    assert "new file mode" not in fault.find(WARNED.splitlines()).error("it", "LOG").hint


def test_what_stands_around_an_error_is_kept() -> None:
    found = fault.find(WARNED.splitlines())
    assert found.around == tuple(WARNED.splitlines()[9:12])
    assert fault.find(BUILD_BUG.splitlines()).around[:3] == tuple(BUILD_BUG.splitlines()[:3])


def test_names_are_shown_without_the_tree(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("/cache/linux/kvm/a.c:1:1: error: no\x1b[31m\n")
    assert fault.read(log, [Path("/cache/linux")]).reason == "kvm/a.c:1:1: error: no"


def test_every_remedy_is_well_formed() -> None:
    known = remedies()
    assert known
    assert all(each.hint and not each.pattern.search("") for each in known)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_with_a_real_compiler(compiler: str, tmp_path: Path) -> None:
    """Warnings in the file that fails, and in one that does not, built at the same time."""
    host_packages.ensure_packages(["make", "gcc"], "for a test")
    try:
        subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "fine.c").write_text("/* a /* b */\nstatic int unused;\n")
    (tmp_path / "bad.c").write_text("/* a /* b */\nint f(void)\n{\n\treturn missing;\n}\n")
    (tmp_path / "Makefile").write_text(
        f"all: fine.o bad.o\n%.o: %.c\n\t@echo '  CC      $@'\n\t@{compiler} -Wall -c $<\n"
    )
    done = subprocess.run(
        # As kernels are built: without -O, lines of two compilers are mixed within themselves.
        ["make", "-j2", "-k", "-Otarget"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        check=False,
        timeout=60,
    )
    assert done.returncode
    assert "within" in done.stdout  # the warning
    reason = fault.find(done.stdout.splitlines()).reason
    assert re.match(r"bad\.c:4:\d+: error: ", reason)
    assert "missing" in reason
