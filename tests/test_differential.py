# SPDX-License-Identifier: GPL-2.0-only
"""Scripts, traces, comparing and shrinking; that a breakage of the emulator is found by them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import backends
from harness.differential import compare, generate, operations, session, shrink
from harness.differential.drive import OPERATIONS
from harness.differential.operations import Operation, Script, Start
from harness.differential.trace import END, Observation, Trace
from harness.errors import UsageError, UserError
from harness.machine.installed import MachineBuild
from harness.splats import find_splats
from harness.tables import Values
from harness.target import Target
from tests import machines, test_vng
from tests.marks import real_test
from tests.mutants.mutant import all_mutants

update = test_vng.update
snp_machine = machines.snp_machine

SCRIPTS, LENGTH = 60, 40
FOUND = (
    "launch: vCPU ids are given twice",
    "gmem: unknown attributes",
    "ap_creation: first VMSA for ever",
    "psc: an entry skipped after each range",
)
"""Breakages of four areas, found within SCRIPTS scripts."""


def script(*names: str) -> Script:
    return Script(Start.GUEST, 7, tuple(Operation(name) for name in names))


def trace(*fields: dict[str, str]) -> Trace:
    return Trace(tuple(Observation(Operation("load"), each) for each in fields))


def entry(**changes: object) -> compare.Documented:
    raw: dict[str, object] = {"id": "x", "operation": ".*", "field": "errno", "emulator": "EINVAL"}
    raw |= {"target": "EIO", "wrong": "neither", "reason": "r", "source": "s"}
    return compare._entry(Values(Path("x.toml"), "difference 1", raw | changes, compare._KEYS))


# -- scripts ---------------------------------------------------------------------------------


def test_a_seed_is_a_script() -> None:
    for seed in range(20):
        made = generate.generate(seed, 40)
        assert made == generate.generate(seed, 40)
        assert len(made.operations) == 40
        assert {each.name for each in made.operations} <= OPERATIONS.keys()
    assert generate.generate(0, 40) != generate.generate(1, 40)


def test_every_operation_is_generated() -> None:
    made = [generate.generate(seed, 60) for seed in range(60)]
    assert {each.name for one in made for each in one.operations} == OPERATIONS.keys()
    assert {one.start for one in made} == set(Start)


def test_saved_and_read_again(tmp_path: Path) -> None:
    made = generate.generate(3, 50)
    (tmp_path / "x").write_text(made.encode())
    assert operations.load(tmp_path / "x") == made


@pytest.mark.parametrize("text", ["", "{}", '{"start": "vm", "seed": 0, "operations": [["x", 1]]}'])
def test_not_a_script(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(UsageError):
        operations.load(tmp_path / "x")
    with pytest.raises(UsageError, match="cannot read"):
        operations.load(tmp_path / "y")


def test_unknown_operation() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        session.emulate(script("nonsense"))


# -- running ---------------------------------------------------------------------------------


def test_the_emulator_repeats_itself() -> None:
    """Two runs give one trace, at whose end nothing of the VM is left."""
    for seed in range(8):
        made = generate.generate(seed, 40)
        first = session.emulate(made)
        assert first == session.emulate(made)
        assert Trace.decode(first.encode(), made.operations) == first
        last = first.observations[-1]
        assert last.operation == END
        assert (last.fields["pages kept"], last.fields["pages leaked"]) == ("0", "0")


def test_many_operations_succeed_and_many_do_not() -> None:
    good = bad = 0
    for seed in range(16):
        for each in session.emulate(generate.generate(seed, 40)).observations:
            outcome = each.fields.get("errno") or each.fields.get("status")
            good += outcome in ("0", "OK")
            bad += outcome not in ("0", "OK", None)
    assert good > 100
    assert bad > 60


FOUND_BY_COMPARING = [
    (Start.GUEST, "rmpquery", {"gpa": 0x100000, "rdx": 1}, "status", "OK"),
    (Start.GUEST, "rmpadjust", {"gpa": 0x405000, "rdx": 0x2001}, "rmp 0x405000", "no page"),
    (Start.GUEST, "pvalidate", {"gpa": 0x405000, "shared": 1}, "fault", "0xd error 0x0"),
    (Start.GUEST, "region", {"slot": 2, "flags": 2, "size": 0x1000}, "errno", "EINVAL"),
    (Start.GUEST, "hypercall", {"nr": 11}, "value 0", None),
    (Start.GUEST, "mp_state", {"cpu": 1, "state": 4}, "state", "0"),
    (Start.VM, "sev", {"command": 15}, "errno", "ENOTTY"),
    (Start.VM, "sev", {"command": 13}, "errno", "EINVAL"),
]
"""What the emulator did otherwise until it was held against Linux 6.12 on the SNP machine."""


@pytest.mark.parametrize(("start", "name", "args", "field", "expected"), FOUND_BY_COMPARING)
def test_what_comparing_has_found(
    start: Start, name: str, args: dict[str, operations.Value], field: str, expected: str | None
) -> None:
    made = Script(start, 0, (Operation(name, args),))
    assert session.emulate(made).observations[0].fields.get(field) == expected


def test_a_refused_vmsa_has_the_low_half_of_the_exit_code() -> None:
    made = Script(
        Start.GUEST,
        0,
        (
            Operation("ap", {"apic": 1, "gpa": 0x407000, "request": 1, "features": 1}),
            Operation("boot", {"cpu": 1}),
        ),
    )
    fields = session.emulate(made).observations[1].fields
    assert fields["stopped"] == "KVM_RUN: KVM_EXIT_FAIL_ENTRY (hardware reason 0xffffffff)"


# -- comparing -------------------------------------------------------------------------------


def test_equal_traces() -> None:
    done = compare.compare(trace({"errno": "0"}), trace({"errno": "0"}), ())
    assert (done.difference, done.operations) == (None, 1)


def test_first_difference_with_what_came_before() -> None:
    left = trace({"errno": "0"}, {"errno": "0", "left": "1"}, {"errno": "EIO"})
    right = trace({"errno": "0"}, {"errno": "0"}, {"errno": "0"})
    difference = compare.compare(left, right, ()).difference
    assert difference is not None
    assert (difference.index, difference.field) == (1, "left")
    assert (difference.emulator, difference.target) == ("1", compare.ABSENT)
    assert difference.before == left.observations[:1]
    assert "operation 1" in difference.describe()


def test_documented_differences_are_counted() -> None:
    left = trace({"errno": "EINVAL"}, {"errno": "0"})
    right = trace({"errno": "EIO"}, {"errno": "EIO"})
    done = compare.compare(left, right, [entry()])
    assert done.documented == {"x": 1}
    assert done.difference is not None
    assert done.difference.index == 1
    assert compare.compare(left, right, [entry(ends=True)]).difference is None
    assert compare.compare(left, right, [entry(operation="store.*")]).documented == {}


def test_a_kernel_that_observed_less_is_an_error() -> None:
    with pytest.raises(ValueError):
        compare.compare(trace({}), trace({}, {}), ())


@pytest.mark.parametrize("change", ['wrong = "both"', 'field = "("', 'colour = "red"'])
def test_damaged_entry(tmp_path: Path, change: str) -> None:
    keys = ["id", "operation", "field", "emulator", "target", "wrong", "reason", "source"]
    lines = [f'{key} = "neither"' for key in keys if not change.startswith(key)]
    path = tmp_path / "x.toml"
    path.write_text("[[difference]]\n" + "\n".join([*lines, change]))
    with pytest.raises(UserError):
        compare.documented(path)


def test_entries_are_sound() -> None:
    entries = compare.documented()
    assert len({each.id for each in entries}) == len(entries)
    assert all(each.reason and each.source for each in entries)


# -- shrinking -------------------------------------------------------------------------------


def test_shrunk_to_what_is_needed() -> None:
    """Two operations that only together show a difference are what is left, in their order."""
    made = script(*"abcdefghijklmnopqrstuvwxyz")

    def shows(tried: Script) -> bool:
        return re.fullmatch(".*c.*u.*", "".join(o.name for o in tried.operations)) is not None

    assert shrink.shrink(made, shows) == script("c", "u")


def test_arguments_that_do_not_matter_go() -> None:
    made = Script(Start.VM, 1, (Operation("x", {"a": 1, "b": 2}), Operation("y")))
    left = shrink.shrink(made, lambda tried: any("b" in o.args for o in tried.operations))
    assert left.operations == (Operation("x", {"b": 2}),)


def test_the_budget_is_kept() -> None:
    runs = 0

    def shows(_tried: Script) -> bool:
        nonlocal runs
        runs += 1
        return False

    assert shrink.shrink(script(*"abcdefgh"), shows, budget=5) == script(*"abcdefgh")
    assert runs == 5


# -- what it is for --------------------------------------------------------------------------


def traces(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "harness.differential", "0", str(SCRIPTS), str(LENGTH)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", FOUND)
def test_a_breakage_is_found(tmp_path: Path, name: str) -> None:
    """A mutant's traces part from the emulator's within some scripts."""
    mutant = next(each for each in all_mutants() if each.name == name)
    mutant.plant(tmp_path)
    lines = traces(tmp_path)
    assert len(lines) == SCRIPTS
    differs = 0
    for seed, line in enumerate(lines):
        made = generate.generate(seed, LENGTH)
        broken = Trace.decode(line, made.operations)
        differs += compare.compare(session.emulate(made), broken, ()).difference is not None
    assert differs


@real_test("boots the SNP machine", 600)
def test_emulator_and_kernel_agree(update: test_vng.Update, snp_machine: MachineBuild) -> None:
    """An unmodified kernel's SNP code does what the emulator does, but for what is documented."""

    with session.Session(
        lambda: backends.open(Target("vng", kernel=update.kernel.name, machine="snp"))
    ) as pair:
        for seed in range(20):
            difference = pair.check(generate.generate(seed, 40)).difference
            assert difference is None, f"seed {seed}:\n{difference.describe(40)}"
        assert find_splats(pair.target.kernel.log()) == []
