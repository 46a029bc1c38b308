# SPDX-License-Identifier: GPL-2.0-only
"""A target's one way in and out: each field is an option of `run` and of pytest, and survives."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from harness import backends
from harness.backends.base import Backend
from harness.cli import compare, nightly, options
from harness.cli.main import app
from harness.compare.live import LiveSide
from harness.nightly import schedule
from harness.target import OPTIONS, Target
from tests.test_cli import snptest

FIELDS = [each.name for each in dataclasses.fields(Target)]
FULL: dict[str, Any] = {
    "backend": "ssh",
    "interface": "v12",
    "kernel": "mine",
    "machine": "snp",
    "memory": "3G",
    "host": "-odd",
    "seed": 7,
    "firmware": "trixie",
    "guest_kernel": "7.x",
    "guest_qemu": Path("/opt/qemu"),
}


class Found(Exception):
    """Carries the target that a command was given."""


def through_typer(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Target:
    """Return what `snptest run WORDS` runs on."""

    def caught(wanted: Any) -> int:
        raise Found(wanted.target)

    monkeypatch.setattr("harness.cli.run.run_suites", caught)
    with pytest.raises(Found) as found:
        app(["run", *words], prog_name="snptest", standalone_mode=False)
    made = found.value.args[0]
    assert isinstance(made, Target)
    return made


def through_pytest(words: list[str], pytester: pytest.Pytester) -> Target:
    """Return what `pytest WORDS` runs on."""
    return Target.of(pytester.parseconfig("-p", "harness.plugin", *words).getoption)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_an_option_everywhere(
    name: str, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    """Whoever adds a field adds it in one place: nothing below names any."""
    option = OPTIONS[name]
    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    [given] = [each for each in run.params if option.flag in each.opts]
    assert given.help == option.help
    value = FULL[name]
    target = Target.of({name: value}.get)
    assert getattr(target, name) == value
    for words in (target.words(), target.words(short=True)):
        assert through_typer(words, monkeypatch) == target
        assert through_pytest(words, pytester) == target
    if option.key:
        assert getattr(Target.of_header(target.header()), name) == value


def test_all_at_once_come_back(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    assert list(FULL) == FIELDS
    target = Target(**FULL)
    assert through_typer(target.words(), monkeypatch) == target
    assert through_pytest(target.words(), pytester) == target
    left = {each.name for each in OPTIONS.values() if not each.key}
    assert left == {"firmware", "guest_kernel", "guest_qemu"}  # "guest" says more
    kept = {name: value for name, value in FULL.items() if name not in left}
    assert Target.of_header(target.header()) == Target(**kept)


def test_help_shows_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = snptest(capsys, "run", "--help")
    assert code == 0
    assert all(f"{option.flag} {option.metavar}" in out for option in OPTIONS.values())


def test_what_is_so_anyway_is_left_out() -> None:
    assert Target().words(short=True) == []
    assert Target("vng", kernel="mine").words(short=True) == ["--kernel", "mine"]
    # Without its backend, the kernel would be booted.
    assert Target(kernel="mine").words(short=True) == ["--backend", "emulator", "--kernel", "mine"]
    assert Target().words() == ["--backend", "emulator", "--seed", "0"]


@pytest.mark.parametrize(
    ("given", "boots", "backend"),
    [
        ({}, False, "emulator"),
        ({}, True, "vng"),
        ({"kernel": "mine"}, False, "vng"),
        ({"machine": "snp"}, False, "vng"),
        ({"host": "a", "kernel": "mine"}, True, "ssh"),
        ({"backend": "local", "host": "a"}, True, "local"),
    ],
)
def test_the_rest_decides_about_the_backend(
    given: dict[str, str], boots: bool, backend: str
) -> None:
    assert Target.of(given.get, boots=boots).backend == backend


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        (("bisect", "gmem"), "vng"),
        (("bisect", "gmem", "--host", "milan1"), "ssh"),
        (("bisect-step", "gmem", "--host", "milan1"), "ssh"),
        (("bisect-step", "gmem", "--backend", "emulator"), "emulator"),
    ],
)
def test_a_host_that_is_named_is_where_it_runs(
    words: tuple[str, ...], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def caught(wanted: Any) -> int:
        raise Found(wanted.target)

    for name in ("bisect", "step"):
        monkeypatch.setattr(f"harness.cli.bisect.{name}", caught)
    with pytest.raises(Found) as found:
        app([*words], prog_name="snptest", standalone_mode=False)
    assert found.value.args[0].backend == backend


def test_a_comparison_runs_on_the_host_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.kbuild.get", lambda name: SimpleNamespace(release="6.12"))
    wanted = compare.CompareOptions(Target(host="milan1", seed=3), "old", "new")
    side = compare._side(wanted, "old")
    assert isinstance(side, LiveSide)
    assert side.target == Target("ssh", kernel="old", host="milan1", seed=3)
    emulated = compare._side(wanted, "v12")
    assert isinstance(emulated, LiveSide)
    assert emulated.target == Target(interface="v12", seed=3)


def test_a_header_that_calls_an_interface_a_revision() -> None:
    old = {"event": "start", "backend": "emulator", "revision": "v12", "seed": 3}
    assert Target.of_header(old) == Target(interface="v12", seed=3)
    assert Target.of_header({}).backend == ""


def test_a_place_of_a_night_has_every_field_that_is_a_places(tmp_path: Path) -> None:
    """But for the kernel, the interface and the host, which each job has its own of."""
    fields = {name: FULL[name] for name, option in OPTIONS.items() if option.place}
    assert {*FIELDS} - {*fields} == {"kernel", "interface", "host"}
    fields["backend"] = "vng"
    lines = [
        f"{OPTIONS[name].dashed} = {json.dumps(value if name == 'seed' else str(value))}"
        for name, value in fields.items()
    ]
    path = tmp_path / "night.toml"
    path.write_text("\n".join(['[revisions.a]\nkernel = "mine"\n[places.b]', *lines]))
    night = schedule.load(path)
    assert night.places["b"].target == Target(**fields)
    assert len(nightly._digest(night)) == 64


def test_what_a_shell_completes_are_fields() -> None:
    assert {*options._COMPLETED} <= {*FIELDS}


def test_interfaces_that_are_run() -> None:
    class Two(Backend):
        name = "two"
        interfaces = ("v12", "merged")

        def open(self, *_: object) -> Any:
            raise NotImplementedError

    assert Two().chosen(None) == ("v12", "merged")
    assert Two().chosen("merged") == ("merged",)
    assert backends.get("vng").chosen(None) == (None,)
