# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin behind `snptest run` and behind plain `pytest suites/psc`.

It gives tests their kernel and host, one of each interface the backend offers, opens another
kernel when one died, keeps deadlines, and streams every result as one JSON line (--results).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from _pytest.runner import runtestprotocol

from harness import backends, features, standstill
from harness.backends.base import Backend, Unconfigurable
from harness.deadline import deadline
from harness.errors import BootError, UserError
from harness.kernel import Kernel
from harness.operations import TargetTimeoutError
from harness.orphan import die_with
from harness.pool import KernelPool
from harness.report import sanitize, verdict
from harness.report.asserted import AssertedLines
from harness.report.facts import Facts, Subject
from harness.report.outcome import Outcome
from harness.report.stream import ResultStream
from harness.splats import known, reporting
from harness.target import OPTIONS, Target

if TYPE_CHECKING:
    from harness.vm.host import Host

pytest.register_assert_rewrite("suites")  # the suites' helpers too, not only their tests

MARKERS = (
    "patches(*numbers): patches of the v12 series that the test covers",
    "areas(*names): areas that the test covers, across patches",
    "needs(*features): skip where kernel or interface lack a feature (harness/features.py)",
    "deadline(seconds): time the test may take, instead of the backend's default",
    "splat(pattern): the test may make the kernel print a splat that the pattern matches",
    "kbuild: builds or boots a kernel: minutes, and packages; `check --quick` leaves it out",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; those of `snptest run` have the same names."""
    group = parser.getgroup("snptest", "SEV-SNP: kernel under test and results")
    for option in OPTIONS.values():
        # Without a default, which Target.of knows.
        group.addoption(option.flag, type=option.type, metavar=option.metavar, help=option.help)
    group.addoption("--deadline", type=float, help="seconds a test may take")
    group.addoption("--repeat", type=int, default=1, help="runs of each test, one after the other")
    group.addoption("--results", metavar="FILE", help="write one JSON line per result to FILE")
    group.addoption(
        "--known-issues",
        metavar="FILE",
        type=Path,
        default=known.FILE,
        help="what is wrong already",
    )
    group.addoption("--parent", type=int, help="process without which this one is to end")
    group.addoption("--stacks", metavar="DIR", help="where a hung process leaves its stacks")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, set up the session's state, start the stream of results."""
    if sys.flags.optimize:
        raise pytest.UsageError("Python's -O drops assertions, and so verdicts")
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    parent = config.getoption("--parent")
    if hasattr(config, "workerinput"):
        # A worker of ours drives a kernel: it must not outlive the run.
        die_with(config.workerinput["snptest_parent"])
    elif parent:
        die_with(parent)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # By it the runner ends us; ignoring it is inherited from a script's background job.
            signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Session(config), "snptest-session")
    config.pluginmanager.register(AssertedLines(), "snptest-asserted-lines")
    results = config.getoption("--results")
    if results and not hasattr(config, "workerinput"):
        stream = ResultStream(Path(results), config)
        config.pluginmanager.register(stream, "snptest-results")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, Any]:
    """Make text of a report what a worker can send: a lone surrogate would end the worker."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    """Return a value with its surrogates escaped, whatever it is made of."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_sendable(key): _sendable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(_sendable(each) for each in value)
        case _:
            return value


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker whose it is."""
    node.workerinput["snptest_parent"] = os.getpid()


class Session:
    """State and hooks of one test process (with xdist: of a worker)."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.target = Target.of(config.getoption)
        try:
            self.known = known.load(config.getoption("--known-issues"))
        except UserError as error:
            raise pytest.UsageError(str(error)) from None
        self._backend: Backend | None = None
        self._pool: KernelPool | None = None
        self._stacks: TextIO | None = None
        self._running = ""
        self._stood = 0.0
        self.crashed = False

    @property
    def backend(self) -> Backend:
        """The backend, imported when the first test wants it."""
        if self._backend is None:
            try:
                self._backend = backends.get(self.target.backend)
            except UserError as error:
                raise pytest.UsageError(str(error)) from None
        return self._backend

    @property
    def pool(self) -> KernelPool:
        """The kernels that are open."""
        if self._pool is None:
            self._pool = KernelPool(self.backend, self.target)
            self._pool.mark(self._running)
        return self._pool

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run what uses a kernel once per interface; the id begins with it: test_x[v12-...]."""
        if "interface" not in metafunc.fixturenames:
            return
        try:
            interfaces = self.backend.chosen(self.target.interface)
        except UserError as error:
            raise pytest.UsageError(str(error)) from None
        ids = [interface or self.backend.name for interface in interfaces]
        metafunc.parametrize("interface", interfaces, ids=ids, scope="module", indirect=True)

    def pytest_sessionfinish(self) -> None:
        """Give every kernel back."""
        if self._pool is not None:
            self._pool.discard_all()

    # A test's life ----------------------------------------------------------------------

    def _deadline(self, item: pytest.Item, phase: str) -> Any:
        marker = item.get_closest_marker("deadline")
        seconds = self.config.getoption("--deadline") or (
            self._backend.deadline if self._backend else Backend.deadline
        )
        if marker and phase == "call":
            seconds = float(marker.args[0])
        if phase == "setup" and self._backend is not None:
            seconds += self._backend.open_deadline
        return deadline(seconds, f"{phase} of {item.name}", self._stacks_file())

    def _stacks_file(self) -> TextIO | None:
        folder = self.config.getoption("--stacks")
        if folder and self._stacks is None:
            worker = getattr(self.config, "workerinput", {}).get("workerid", "main")
            self._stacks = (Path(folder) / f"stacks-{worker}.txt").open("w")
        return self._stacks

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Repeat the test, and do not use a kernel again which died in the teardown."""
        for _ in range(self.config.getoption("--repeat") - 1):
            # Told that the next one shares the module, pytest tears down the test's own fixtures.
            runtestprotocol(item, nextitem=item.parent, log=True)  # type: ignore[arg-type]
            if self.crashed:
                self._bury(item)
            if item.session.shouldstop:
                break
        value = yield
        if self.crashed:
            self._bury(item)
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Arrange under a deadline, from a marked place in the kernel log on."""
        self._running = item.nodeid
        self._stood = standstill.watch().total()
        if self._pool is not None:
            self._pool.mark(item.nodeid)
        with self._deadline(item, "setup"):
            reporting.allowed(item)  # a wrong marker is told before the test runs
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Run under a deadline."""
        with self._deadline(item, "call"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Tear down under a deadline; all of it where the kernel died, so that all is remade."""
        with self._deadline(item, "teardown"):
            try:
                if self.crashed:
                    self._bury(item)
            finally:
                value = yield
        return value

    def _bury(self, item: pytest.Item) -> None:
        # pytest tears down to what the next test shares with this one; on a dead kernel
        # nothing may be shared.  The kernel goes first, so that what lived on it fails fast.
        self.crashed = False
        if self._pool is not None:
            self._pool.bury()
        try:
            item.session._setupstate.teardown_exact(None)
        except Exception as error:  # noqa: BLE001  # the crash is the result; this is its echo
            item.add_report_section("teardown", "after the crash", str(error))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what the reports need to pytest's report; it travels from worker to controller."""
        report = yield
        facts = Facts(test=_test(item) if report.when == "setup" else None)
        if call.excinfo is not None and report.failed:
            error = call.excinfo.value
            outcome = verdict.of_exception(error, call.when)
            self.crashed = self.crashed or outcome is Outcome.CRASH
            facts.verdict, facts.reason = outcome, verdict.reason_of(error)
            if outcome is Outcome.CRASH and self._pool is not None:
                death = self._pool.autopsy()
                if death is not None:
                    facts.reason = f"{death.kind}: {death.summary}"
                    if death.blameless:
                        facts.verdict = Outcome.ERROR
            stood = standstill.watch().total() - self._stood
            if stood and isinstance(error, TargetTimeoutError):
                facts.verdict, facts.reason = Outcome.ERROR, verdict.stood_still(stood)
            if isinstance(error, UserError):
                report.longrepr = str(error)
            if isinstance(error, BootError) and self._pool is not None:
                # No other test would fare better: it is our kernel that does not open.
                facts.gave_up = item.session.shouldstop = facts.reason
        elif call.excinfo is not None and report.skipped and not hasattr(report, "wasxfail"):
            facts.reason = verdict.reason_of(call.excinfo.value)
        self._judge(item, report, facts)
        facts.attach(report)
        return report

    def _judge(self, item: pytest.Item, report: pytest.TestReport, facts: Facts) -> None:
        interface = _interface(item)
        where = known.Where(item.nodeid, interface, frozenset({self.target.backend}))
        if self._pool is not None:
            facts.troubles = self._pool.troubles()
            facts.abouts = self._pool.new_abouts()
            facts.boots = reporting.boots_of(self._pool, self.known, self.target.backend)
            where = self._pool.where(item.nodeid, interface)
        reporting.apply(item, report, facts, self._pool, self.known, where)


def _test(item: pytest.Item) -> Subject:
    """Collect what a result says about its test."""
    return Subject(
        suite=verdict.suite_of(item.nodeid),
        interface=_interface(item),
        description=_first_sentence(getattr(item, "obj", None)),
        patches=tuple(sorted({n for mark in item.iter_markers("patches") for n in mark.args})),
        areas=tuple(sorted({name for mark in item.iter_markers("areas") for name in mark.args})),
    )


def _interface(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return (callspec.params.get("interface") if callspec else None) or ""


def _first_sentence(function: object) -> str:
    paragraph = (getattr(function, "__doc__", None) or "").strip().split("\n\n")[0]
    flat = sanitize.line(paragraph)
    end = flat.find(". ")
    return flat[: end + 1] if end >= 0 else flat


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of one module and interface together: they share a kernel, in order.

    That is also what makes two runs with one seed alike, however many workers there are.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from harness.report.schedule import ModuleInterfaceScheduling

    return ModuleInterfaceScheduling(config, log)


# Fixtures -------------------------------------------------------------------------------


def _session(request: pytest.FixtureRequest) -> Session:
    session = request.config.pluginmanager.get_plugin("snptest-session")
    assert isinstance(session, Session)
    return session


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """Where the run runs, as the command line says."""
    return _session(request).target


@pytest.fixture(scope="module")
def interface(request: pytest.FixtureRequest) -> str | None:
    """Name of the interface under test; None where the kernel that runs decides."""
    name = request.param
    assert name is None or isinstance(name, str)
    return name


@pytest.fixture(scope="module")
def kernel(request: pytest.FixtureRequest, interface: str | None) -> Iterator[Kernel]:
    """The kernel under test; another one is opened for the next test when it dies."""
    session = _session(request)
    reason = session.backend.unavailable()
    if reason:
        pytest.skip(reason)
    yield session.pool.get(interface)
    session.pool.release(interface)


@pytest.fixture(scope="module")
def host(kernel: Kernel, interface: str | None) -> Iterator[Host]:
    """The host under test: /dev/kvm of the kernel, speaking the interface's ABI."""
    from harness.probe import probe
    from harness.uapi.interfaces import INTERFACES
    from harness.vm.host import Host

    opened = Host(kernel, INTERFACES[interface] if interface else probe(kernel))
    yield opened
    opened.close()


@pytest.fixture
def boot(request: pytest.FixtureRequest, interface: str | None) -> Iterator[Callable[..., Host]]:
    """Boots another host with other parameters: boot(sev_snp=False); skips where none can be.

    Where a boot is dear, tests get the same host for the same parameters. Without parameters it is
    the test's own; boot(shared="what was done to it") gives that to all tests which say the same,
    and boot(own=True, ...) is nobody else's whatever its parameters.
    """
    from harness.probe import probe
    from harness.uapi.interfaces import INTERFACES
    from harness.vm.host import Host

    session = _session(request)
    numbers = itertools.count()
    opened: list[tuple[dict[str, Any], str]] = []

    changed: list[Host] = []

    def change_host(parameters: dict[str, Any]) -> Host:
        host = request.getfixturevalue("host")
        if not parameters:
            pytest.skip("a remote host is not booted anew for one test")
        for each in changed:
            each.close()
        try:
            session.backend.configure(host, parameters)
        except Unconfigurable as error:
            pytest.skip(str(error))
        changed.append(Host(host.kernel, host.interface))
        return changed[-1]

    def boot_host(shared: str = "", own: bool = False, **parameters: Any) -> Host:
        if session.backend.in_place:
            return change_host(parameters)
        owner = shared
        if own or not session.backend.reusable or not (parameters or shared):
            owner = f"{request.node.nodeid} {next(numbers)}"
            opened.append((parameters, owner))
        try:
            kernel = session.pool.get(interface, parameters, owner)
        except Unconfigurable as error:
            pytest.skip(str(error))
        return Host(kernel, INTERFACES[interface] if interface else probe(kernel))

    yield boot_host
    for host in changed:
        host.close()
    if changed:
        session.backend.configure(changed[0], {})
    for parameters, owner in opened:
        session.pool.discard(interface, parameters, owner)


@pytest.fixture
def scheduled(
    request: pytest.FixtureRequest, host: Host, boot: Callable[..., Host]
) -> Callable[[int], Host]:
    """A host whose threads run in the order that a seed draws: scheduled(seed).

    Where the backend has no say in that, it is the host itself, and races are what they are.
    """
    schedules = _session(request).backend.schedules
    return lambda seed: boot(seed=seed) if schedules else host


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """Skip a test whose needs the kernel or the interface does not meet."""
    needs = [name for mark in request.node.iter_markers("needs") for name in mark.args]
    if needs:
        reason = features.lacking(needs, request.getfixturevalue("host"))
        if reason:
            pytest.skip(reason)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of the test's own: the same for the same --seed, whatever ran before."""
    base = _session(request).target.seed
    digest = hashlib.sha256(f"{base}:{request.node.nodeid}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Random numbers that are the same for the same --seed."""
    return random.Random(seed)
