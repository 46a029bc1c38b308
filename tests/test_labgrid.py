# SPDX-License-Identifier: GPL-2.0-only
"""Hosts of a real labgrid coordinator and exporter, on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kbuild import cache
from harness.nightly import labgrid
from harness.nightly.night import Operation, Tools
from harness.nightly.schedule import load
from harness.nightly.state import Night
from harness.report.outcome import ExitCode, Outcome, Result
from harness.suiterun import SuiteRun
from tests.marks import real

VERSION = "26.0.1"
EXPORTS = """\
milan1:
  NetworkService:
    address: 127.0.0.1
    username: root
milan2:
  NetworkService:
    address: 127.0.0.1
    username: root
"""
FARM = """
suites = ["psc", "gmem", "launch"]
[revisions.mine]
kernel = "mine"
[places.milan]
backend = "ssh"
hosts = ["milan1", "milan2"]
coordinator = "{coordinator}"
"""

pytestmark = real("installs labgrid", 600)


@pytest.fixture(scope="module")
def programs() -> Path:
    """Labgrid in an environment of its own, kept for the next time."""
    folder = cache.root() / f"labgrid-{VERSION}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(folder / "bin/pip"), "install", "-q", f"labgrid=={VERSION}"]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            subprocess.run(command, check=True, timeout=500, capture_output=True)
        (folder / "done").touch()
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


@pytest.fixture
def coordinator(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a coordinator with the places milan1 and milan2."""
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(labgrid, "PAUSE", 0.2)
    monkeypatch.chdir(tmp_path)  # the coordinator keeps its places there
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "exports.yaml").write_text(EXPORTS)
    serve = [str(programs / "labgrid-coordinator"), "-l", address]
    share = [str(programs / "labgrid-exporter"), "-c", address, "-n", "farm", "exports.yaml"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(serve, tmp_path / "coordinator.log"))
        until(lambda: listens(address))
        # An exporter that finds no coordinator ends: it is its unit that starts it again.
        stack.enter_context(running(share, tmp_path / "exporter.log"))
        until(lambda: "milan2" in client(address, "resources", check=False))
        for place in ("milan1", "milan2"):
            client(address, "-p", place, "create")
            client(address, "-p", place, "add-match", f"farm/{place}/NetworkService")
        yield address


def client(address: str, *words: str, owner: str = "somebody", check: bool = True) -> str:
    done = subprocess.run(
        ["labgrid-client", "-x", address, *words],
        env=os.environ | {"LG_USERNAME": owner},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "labgrid does not come up"
        time.sleep(0.2)


def who(address: str) -> str:
    return client(address, "who")


def test_a_place_is_acquired_and_released(coordinator: str) -> None:
    with labgrid.acquired(coordinator, "milan1", "snptest-x"):
        assert "snptest-x" in who(coordinator)
        assert "milan1" in who(coordinator)
    assert "milan1" not in who(coordinator)


def test_a_place_that_somebody_has_is_waited_for(coordinator: str) -> None:
    client(coordinator, "-p", "milan1", "acquire")
    with (
        pytest.raises(UserError, match=r"milan1 is already acquired by .*somebody"),
        labgrid.acquired(coordinator, "milan1", "snptest-x", wait=1.0),
    ):
        pytest.fail("it was somebody else's")
    command = f"sleep 3; labgrid-client -x {coordinator} -p milan1 release"
    environment = os.environ | {"LG_USERNAME": "somebody"}
    freeing = subprocess.Popen(["sh", "-c", command], env=environment)
    with labgrid.acquired(coordinator, "milan1", "snptest-x", wait=60):
        assert "snptest-x" in who(coordinator)
    assert freeing.wait(60) == 0


@pytest.mark.parametrize(
    ("take", "give", "said"),
    [
        ("-p shared acquire", "-p shared release", "already acquired by place 'shared'"),
        ("reserve board=milan1", "cancel-reservation TOKEN", "milan1 was not reserved for"),
        (
            "-p milan1 acquire",
            "-p milan1 release",
            "You have already acquired place milan1 on elsewhere",
        ),
    ],
)
def test_what_else_keeps_a_place_from_us_is_waited_for(
    coordinator: str, monkeypatch: pytest.MonkeyPatch, take: str, give: str, said: str
) -> None:
    """Its resource is another place's, it is reserved, or our namesake elsewhere has it."""
    client(coordinator, "-p", "shared", "create")
    client(coordinator, "-p", "shared", "add-match", "farm/milan1/NetworkService")
    client(coordinator, "-p", "milan1", "set-tags", "board=milan1")
    environment = os.environ | {"LG_HOSTNAME": "elsewhere", "LG_USERNAME": "somebody"}
    if "elsewhere" in said:
        environment["LG_USERNAME"] = "snptest-x"

    def theirs(words: str) -> str:
        command = ["labgrid-client", "-x", coordinator, *words.split()]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    found = re.search(r"'([A-Z0-9]+)'", theirs(take))
    give = give.replace("TOKEN", found[1] if found else "")
    with (
        pytest.raises(UserError, match=said),
        labgrid.acquired(coordinator, "milan1", "snptest-x", wait=1.0),
    ):
        pytest.fail("it was somebody else's")
    giving = threading.Timer(2.0, theirs, [give])
    giving.start()
    with labgrid.acquired(coordinator, "milan1", "snptest-x", wait=60):
        assert "snptest-x" in who(coordinator)
        assert "elsewhere" not in who(coordinator)
    giving.join()


def test_what_a_killed_night_left_is_taken_over(coordinator: str) -> None:
    client(coordinator, "-p", "milan1", "acquire", owner="snptest-x")
    with labgrid.acquired(coordinator, "milan1", "snptest-x"):
        assert "snptest-x" in who(coordinator)
    assert "milan1" not in who(coordinator)


def test_what_is_wrong_is_one_line(coordinator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, place, message in (
        (coordinator, "nosuch", "labgrid place nosuch: .*nosuch matches nothing"),
        (f"127.0.0.1:{free_port()}", "milan1", "labgrid place milan1: .*"),
    ):
        with (
            pytest.raises(UserError, match=message) as caught,
            labgrid.acquired(address, place, "snptest-x"),
        ):
            pytest.fail("there is no such place")
        assert "\n" not in caught.value.message
    monkeypatch.setenv("PATH", "/nonexistent")
    with (
        pytest.raises(UserError, match="labgrid-client is not installed"),
        labgrid.acquired(coordinator, "milan1", "snptest-x"),
    ):
        pytest.fail("there is no client")


def test_a_night_over_places(
    coordinator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job has its place while it runs, and nobody has one in the end."""
    monkeypatch.setenv("SNPTEST_HISTORY", str(tmp_path / "history.db"))
    path = tmp_path / "farm.toml"
    path.write_text(FARM.format(coordinator=coordinator))
    held: list[tuple[str, bool]] = []

    def judge(words: Sequence[str], within: float) -> SuiteRun:
        host = words[words.index("--host") + 1]
        lines = [line for line in who(coordinator).splitlines() if host in line]
        held.append((host, any("snptest-farm" in line for line in lines)))
        return SuiteRun([Result("t", "gmem", "", Outcome.PASS, 0.1)], code=ExitCode.PASSED)

    wanted = load(path)
    with Night(wanted.name, {}, 3600) as night:
        Operation(wanted, night, tools=Tools(judge)).run()
    assert len(held) == 3
    assert all(had for _, had in held)
    assert all(each.done and not each.broken for each in night.records.values())
    assert "snptest" not in who(coordinator)
