# SPDX-License-Identifier: GPL-2.0-only
"""Splats found in kernel logs, whatever else is in there, and decoded with a real ELF."""

from __future__ import annotations

import random
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from harness.kbuild import cache
from harness.splats import Kind, Splat, extract, find_splats, symbols
from harness.splats.symbols import Symbols
from tests.splat_samples import AFTER, CUT, HARMLESS, REGISTERS, SAMPLES, WARN, line

BOOT = Path(__file__).parent / "data" / "boot-6.12.txt"


def only(log: str) -> Splat:
    found = find_splats(log)
    assert len(found) == 1, [each.title for each in found]
    return found[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_is_found_with_its_whole_block(name: str) -> None:
    kind, word, log = SAMPLES[name]
    splat = only(HARMLESS + log + AFTER)
    assert splat.kind is kind
    assert word in splat.head
    assert not re.match(r"\[ *\d", splat.head)
    assert splat.block.splitlines() == log.splitlines()


def test_every_kind_has_a_sample() -> None:
    assert {kind for kind, _, _ in SAMPLES.values()} == set(Kind) - {Kind.UNREAD}


@pytest.mark.parametrize("name", SAMPLES)
def test_forms_of_the_log_do_not_matter(name: str) -> None:
    """With carriage returns, with callers, from syslog(2) and /dev/kmsg, and without times."""
    kind, word, log = SAMPLES[name]
    stamp = re.compile(r"^\[ *(\d+)\.(\d+)\] ", re.MULTILINE)
    forms = {
        "carriage returns": log.replace("\n", "\r\n"),
        "callers": stamp.sub(r"[   \1.\2][  T214] ", log),
        "syslog": stamp.sub(r"<4>[   \1.\2] ", log),
        "kmsg": stamp.sub(r"4,339,\1\2,-;", log),
        "kmsg with callers": stamp.sub(r"4,339,\1\2,-,caller=T214;", log),
    }
    if name not in ("spinlock",):  # its words might be a program's
        forms["no times"] = stamp.sub("", log)
    for form, text in forms.items():
        splat = only(text)
        assert (splat.kind, word in splat.head) == (kind, True), form
        assert len(splat.block.splitlines()) == len(log.splitlines()), form


def test_what_only_mentions_splats_is_none() -> None:
    assert find_splats(HARMLESS) == []
    for each in HARMLESS.splitlines():
        assert find_splats(each) == []


def test_a_real_boot_has_none_and_a_real_panic_one() -> None:
    log = BOOT.read_text(encoding="utf-8", errors="replace")
    assert "Kernel command line" in log
    boot, _, death = log.partition("[    1.736433]")
    assert find_splats(boot) == []
    panic = only(boot + "[    1.736433]" + death)
    assert panic.kind is Kind.PANIC
    assert "virtme-ng-init failed (error -2)" in panic.head
    assert panic.block.splitlines()[-1].endswith("Kernel Offset: disabled")


def test_all_splats_are_listed_in_order() -> None:
    logs = [log for _, _, log in SAMPLES.values()][:20]
    found = find_splats(AFTER.join(logs))
    assert [each.kind for each in found] == [kind for kind, _, _ in SAMPLES.values()][:20]


def test_a_splat_and_the_panic_it_causes_are_two() -> None:
    log = CUT + WARN + REGISTERS.rpartition("[   12.000011]")[0] + SAMPLES["panic"][2]
    warning, panic = find_splats(log)
    assert (warning.kind, panic.kind) == (Kind.WARNING, Kind.PANIC)
    assert "not syncing" not in warning.block


def test_the_words_of_a_warning_are_its_message() -> None:
    splat = only(SAMPLES["warn-message"][2])
    assert splat.message == "Unpatched return thunk in use. This should not happen!"
    assert splat.title == f"{splat.head} ({splat.message})"
    assert only(SAMPLES["warn"][2]).message == ""


def test_two_cpus_at_once_keep_both_heads() -> None:
    one = SAMPLES["warn"][2].splitlines(keepends=True)
    two = SAMPLES["soft-lockup"][2].splitlines(keepends=True)
    mixed = "".join(a + b for a, b in zip(one, two, strict=False))
    assert {each.kind for each in find_splats(mixed)} == {Kind.WARNING, Kind.SOFT_LOCKUP}


def test_two_callers_at_once_keep_both_blocks() -> None:
    def of(log: str, caller: str) -> list[str]:
        return [each.replace("] ", f"][{caller:>6}] ", 1) for each in log.splitlines(True)]

    one, two = of(SAMPLES["warn"][2], "T214"), of(SAMPLES["oops"][2], "C1")
    mixed = "".join(a + b for a, b in zip(one, two, strict=False)) + "".join(
        (one if len(one) > len(two) else two)[min(len(one), len(two)) :]
    )
    oops, warning = find_splats(mixed)
    assert warning.block.splitlines() == "".join(one).splitlines()
    assert oops.block.splitlines() == "".join(two).splitlines()


def test_a_head_behind_half_a_line_is_found() -> None:
    log = "snptest-init: starting [    0.5" + WARN.rstrip() + "[   12.3] x\n"
    assert only(log).kind is Kind.WARNING
    assert only("a program's half line" + WARN).head.startswith("WARNING: CPU: 1")


def test_a_truncated_splat_is_one() -> None:
    assert only(WARN.rstrip()).kind is Kind.WARNING
    assert only(CUT + WARN + REGISTERS[:200]).kind is Kind.WARNING


def test_results_are_bounded_and_say_so() -> None:
    found = find_splats(line("BUG: spinlock bad magic") * 1000)
    assert len(found) == extract.MAX_SPLATS + 1
    assert found[-1].kind is Kind.UNREAD
    long = only(CUT + WARN + line(" f+0x1/0x2" + " x" * 1000) * 1000)
    assert len(long.block) <= extract.MAX_BLOCK + 100
    assert max(map(len, long.block.splitlines())) <= 1100


def test_control_characters_do_not_get_out() -> None:
    splat = only("\x1b[31m\x00\n" + WARN.replace("sev.c", "s\x1b[31m\x08ev.c") + "\x00\xff\n")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", splat.head + splat.block)


TEN_MB = 10_000_000
GARBAGE = {
    "bytes": "",
    "spaces": " ",
    "lines": "\n",
    "brackets": "[ 1",
    "stamps": "[    1.000000]",
    "almost stamps": "[    1.00000 ",
    "hints": "WARNING: ",
    "a hint of slabs": "BUG ",
    "near heads": "[    1.000000][   T1] WARNING: possible recursive locking\n",
    "near heads in one line": "[    1.000000] x BUG: ",
    "long names": "WARNING: " + "a" * 300 + " at " + "b" * 400 + "\n",
    "cuts": CUT,
    "kmsg": "4,1,2,-,caller=T1;BUG \n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_ten_megabytes_of_garbage_end(name: str) -> None:
    piece = GARBAGE[name] or random.Random(0).randbytes(TEN_MB).decode("latin1")
    log = (piece * (TEN_MB // len(piece) + 1))[:TEN_MB]
    assert find_splats(log) == []
    # What follows the garbage is still seen.
    assert len(find_splats(log + "\n" + SAMPLES["warn"][2])) == 1


# Symbols ---------------------------------------------------------------------------------

SOURCE = """\
static int __attribute__((noinline, noipa)) leaf(int n)
{
	return n * 3;
}

int __attribute__((noinline)) kernel_init(int n)
{
	return leaf(n) + 1;
}

int main(void)
{
	return kernel_init(2);
}
"""
# What scripts/decode_stacktrace.sh needs to be asked for and how it answers (6.12), in short:
# stdin to stdout, "symbol+0x1/0x2" becomes "symbol (file:line)".
SCRIPT = """\
#!/bin/bash
while read line; do
	read -a words <<<"$line"
	symbol=${words[1]}
	name=${symbol%+*}
	offset=${symbol%/*}
	offset=${offset#*+}
	base=$(nm "$1" | awk '$3 == "'$name'" {print $1; exit}')
	if [[ -z $base ]]; then echo "$line"; continue; fi
	address=$(printf '%x' $((0x$base + offset)))
	echo "${words[0]} $name ($(addr2line -e "$1" $address)) ${words[2]}"
done
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "init").mkdir()
    (folder / "build").mkdir()
    (folder / "init" / "main.c").write_text(SOURCE)
    # As an O= build names its sources.
    source = str(folder / "build" / ".." / "init" / "main.c")
    subprocess.run(["gcc", "-g", "-O1", "-o", "vmlinux", source], cwd=folder, check=True)
    return folder / "vmlinux"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "decode_stacktrace.sh"
    path.write_text(SCRIPT)
    return path


def frames(elf: Path) -> str:
    nm = subprocess.run(["nm", "-S", elf], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in nm.splitlines()]
    sizes = {row[3]: int(row[1], 16) for row in rows if len(row) == 4}
    return textwrap.dedent(f"""\
        [    1.000001] Call Trace:
        [    1.000002]  leaf+0x0/{sizes["leaf"]:#x}
        [    1.000003]  ? kernel_init+0x0/{sizes["kernel_init"]:#x}
        [    1.000004]  kvm_gmem_release+0x3c/0x110 [kvm]
        """)


def test_symbols_get_their_places(elf: Path, script: Path) -> None:
    trace = frames(elf)
    decoded = symbols.decode(trace, Symbols(elf, None, script)).splitlines()
    raw = trace.splitlines()
    assert decoded[0] == raw[0]
    assert re.fullmatch(re.escape(raw[1]) + r" \(init/main\.c:3\)", decoded[1])
    assert re.fullmatch(re.escape(raw[2]) + r" \(init/main\.c:7\)", decoded[2])
    # What this ELF does not have stays as it was.
    assert decoded[3] == raw[3]


def test_the_kernels_own_script_is_spoken_to_rightly(elf: Path) -> None:
    real = cache.root() / "linux" / "scripts" / "decode_stacktrace.sh"
    if not real.exists():
        pytest.skip("no kernel's source is here: nothing was built yet")
    decoded = symbols.decode(frames(elf), Symbols(elf, None, real))
    assert re.search(r"leaf\+0x0/0x\w+ \(init/main\.c:3\)", decoded)


HOSTILE = (
    "a[$(touch {0})]+0x1/0x2",
    '"||system("touch {0}")||"+0x1/0x2',
    "x`touch {0}`+0x1/0x2 [kvm]",
    "leaf+0x0/0x5 [$(touch {0})]",
    "leaf+0x0$(touch {0})/0x5",
    "Code: $(touch {0}) 00 <0f> 0b",
    "-e{0}+0x1/0x2",
)


def test_hostile_traces_run_nothing(elf: Path, tmp_path: Path) -> None:
    """A script that would run what it is given only ever gets symbols and modules."""
    spy, log, mark = tmp_path / "spy.sh", tmp_path / "seen", tmp_path / "mark"
    spy.write_text(f'cat > "{log}"\n')
    trace = "\n".join(each.format(mark) for each in HOSTILE) + "\n" + frames(elf)
    symbols.decode(trace, Symbols(elf, None, spy))
    for question in log.read_text().splitlines():
        assert re.fullmatch(r"@\d+ [\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+( \[[\w-]+\])?", question)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sleep 60", "did not end within 0.5 s"),
        ("exit 1", "found none of the symbols"),
        ("yes 'garbage (x)' | head -c 3000000", "found none of the symbols"),
        ('while read a b; do echo "@9999 x (y)"; done', "found none of the symbols"),
    ],
)
def test_a_script_that_fails_leaves_the_trace_raw(
    elf: Path, script: Path, body: str, why: str
) -> None:
    script.write_text(body + "\n")
    trace = frames(elf)
    decoded = symbols.decode(
        trace, Symbols(elf, None, script), deadline=0.5 if "0.5" in why else 30
    )
    assert decoded.startswith(trace)
    last = decoded[len(trace) :].strip()
    assert last.startswith("[not symbolised: ")
    assert why in last
    assert "\n" not in last


def test_what_is_missing_is_told(elf: Path, script: Path, tmp_path: Path) -> None:
    trace = frames(elf)
    assert "decode_stacktrace.sh is not there" in symbols.decode(trace, Symbols(elf, None, None))
    gone = Symbols(tmp_path / "vmlinux", None, script)
    assert "vmlinux is not there" in symbols.decode(trace, gone)
    # Nothing to ask, nothing to complain about.
    assert symbols.decode("no symbols here", gone) == "no symbols here"
