# SPDX-License-Identifier: GPL-2.0-only
"""Writes the one line that a failed assert of a suite is reported by.

The line says operation, what came, and what was wanted: `KVM_SEV_INIT2: EINVAL, want success`.
Suites use plain asserts.  The line is made of the compared values (harness.report.phrases), of
the assert's source where a value does not say which operation it came from, and of pytest's
explanation where an assert compares nothing.  pytest's own explanation stays below the line.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

from harness.report import phrases, sanitize
from harness.report.outcome import FAILURE_WIDTH
from harness.uapi import kvm

_REWRITTEN = "_call_reprcompare"
"""pytest's function that the rewritten assert calls, and which calls our hook."""
_WHERE = re.compile(r"^ \+  where (?:False|True|None|0) = (.*)$", re.MULTILINE)
_ISINSTANCE = re.compile(r"isinstance\((.*), (?:<class ')?(?:[\w.]*\.)?(\w+)(?:'>)?\)")
_ATTRIBUTE = re.compile(r"(.*)\.(\w+)")
_DESCRIBED = re.compile(r"[^:]+: ")
"""How the text of a value begins that names the operation it came from."""


@dataclass(frozen=True, slots=True)
class Statement:
    """An assert in a file of a suite, with the names that it sees."""

    node: ast.Assert
    names: dict[str, Any]
    calls: dict[str, ast.Call]
    """The call that each local name was last assigned before the assert."""

    @classmethod
    def at(cls, frame: FrameType, line: int) -> Statement | None:
        """Find the assert that a frame of a suite stands in; None for any other file."""
        path = Path(frame.f_code.co_filename)
        if "suites" not in path.parts[:-1]:
            return None
        around = [each for each in _asserts(path) if each.lineno <= line <= _end(each)]
        if not around:
            return None
        node = min(around, key=lambda each: _end(each) - each.lineno)
        return cls(node, _names(frame), _calls_before(path, node))


class AssertedLines:
    """The pytest plugin: notes what an assert compared, and puts the line before the rest."""

    def __init__(self) -> None:
        self._compared: tuple[ast.Assert, str] | None = None

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """Note the line of a comparison that came out false; pytest explains it as ever."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_name != _REWRITTEN:
            frame = frame.f_back
        frame = frame.f_back if frame else None
        statement = Statement.at(frame, frame.f_lineno) if frame else None
        if statement is not None and isinstance(statement.node.test, ast.Compare):
            line = _made(compared, statement, op, left, right)
            self._compared = statement.node, line

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Begin the message of a failed assert with its line."""
        if call.excinfo is not None:
            self.improve(call.excinfo.value)
        return (yield)

    def improve(self, error: BaseException) -> None:
        """Put the line before the message of a suite's failed assert, or of a missing error."""
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                self.improve(each)
        line = ""
        if isinstance(error, AssertionError):
            line = self._of_assert(error)
        elif isinstance(error, pytest.fail.Exception) and "DID NOT RAISE" in str(error):
            line = _of_missing(error)
        if line:
            message = sanitize.line(line, FAILURE_WIDTH)
            original = str(error)
            if isinstance(error, pytest.fail.Exception):
                error.msg = f"{message}\n{original}"
            error.args = (f"{message}\n{original}",)

    def _of_assert(self, error: AssertionError) -> str:
        frame, line = _innermost(error.__traceback__)
        statement = Statement.at(frame, line) if frame else None
        if statement is None:
            return ""
        message = str(error).partition("\n")[0] if statement.node.msg is not None else ""
        if " want " in message or isinstance(statement.node.test, ast.Constant):
            return message
        if self._compared is not None and self._compared[0] is statement.node:
            return _with_remark(self._compared[1], message)
        explanation = str(error).removeprefix(message).lstrip("\n")
        return _with_remark(_made(explained, statement, explanation), message)


def _made(make: Callable[..., str], *arguments: object) -> str:
    """Make a line; a fault of ours must not hide what the test found."""
    try:
        return make(*arguments)
    except Exception as error:  # noqa: BLE001  # the assert failed: that is the result
        return f"assertion failed, its line could not be made: {type(error).__name__}: {error}"


def compared(statement: Statement, op: str, left: object, right: object) -> str:
    """Return the line of a comparison that came out false."""
    test = statement.node.test
    assert isinstance(test, ast.Compare)
    first, second = (test.left, test.comparators[0]) if len(test.ops) == 1 else (test, None)
    if op == "==" and isinstance(first, ast.Tuple) and isinstance(left, tuple):
        return _element(statement, first, second, left, right)
    return _compared(statement, op, (first, left), (second, right))


def _element(
    statement: Statement,
    first: ast.Tuple,
    second: ast.AST | None,
    left: tuple[object, ...],
    right: object,
) -> str:
    """Return the line of the first element of a tuple that is not as it should be."""
    wanted = right if isinstance(right, tuple) and len(right) == len(left) else left
    sources = second.elts if isinstance(second, ast.Tuple) else [None] * len(left)
    if len(first.elts) == len(sources) == len(left):
        for source, other, a, b in zip(first.elts, sources, left, wanted, strict=True):
            if a != b:
                return _compared(statement, "==", (source, a), (other, b))
    return _compared(statement, "==", (first, left), (second, right))


def _compared(
    statement: Statement,
    op: str,
    one: tuple[ast.AST, object],
    other: tuple[ast.AST | None, object],
) -> str:
    (first, left), (second, right) = one, other
    if op in ("in", "not in") and second is not None and isinstance(right, str | bytes | dict):
        subject = phrases.operation(right) or _source(second, statement)
    else:
        known = phrases.operation(left) or phrases.operation(right)
        subject = known or _source(first, statement)
    return phrases.comparison(
        subject,
        op,
        phrases.Side(left, _constant(first)),
        phrases.Side(right, _constant(second)),
    )


def explained(statement: Statement, explanation: str) -> str:
    """Return the line of an assert without comparison, with the values that pytest names."""
    test, wanted = statement.node.test, True
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, wanted = test.operand, not wanted
    where = _WHERE.search(explanation)
    text = where.group(1) if where else ""
    if isinstance(test, ast.Call) and (match := _ISINSTANCE.fullmatch(text)):
        came, kind = match.groups()
        subject, _, rest = came.partition(": ") if _DESCRIBED.match(came) else ("", "", came)
        kind = phrases.kind(kind, getattr(statement.names.get(kind), "label", None))
        return phrases.line(
            subject or _source(test.args[0], statement),
            phrases.empty(rest),
            kind if wanted else f"anything but {kind}",
        )
    if isinstance(test, ast.Attribute) and (match := _ATTRIBUTE.fullmatch(text)):
        came, name = match.groups()
        if _DESCRIBED.match(came):
            subject, _, rest = came.partition(": ")
            return phrases.line(subject, rest, phrases.property(name, wanted))
    first = explanation.partition("\n")[0].removeprefix("assert ").removeprefix("not ")
    if first in ("True", "False", ""):
        return phrases.line(_source(test, statement), str(not wanted).lower(), str(wanted).lower())
    if not wanted:
        return phrases.line(_source(test, statement), first, "none")
    wanted_text = "anything but 0" if first == "0" else "some"
    return phrases.line(_source(test, statement), phrases.empty(first), wanted_text)


def _with_remark(line: str, remark: str) -> str:
    """Add what an assert says itself (`flag 5`), if there is room."""
    both = f"{line} ({remark})"
    return both if remark and len(both) <= FAILURE_WIDTH else line


def _of_missing(error: BaseException) -> str:
    """Return the line of an operation that succeeded where pytest.raises wants an error."""
    found: tuple[ast.With, FrameType] | None = None
    traceback = error.__traceback__
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if "suites" in path.parts[:-1]:
            for node in ast.walk(_tree(path)):
                if not isinstance(node, ast.With):
                    continue
                if node.lineno <= traceback.tb_lineno <= _end(node):
                    found = node, traceback.tb_frame
        traceback = traceback.tb_next
    if found is None:
        return ""
    block, frame = found
    body = block.body[-1]
    shown: ast.AST = body.value if isinstance(body, ast.Expr) else body
    wanted = re.sub(r".*DID NOT RAISE (?:<class ')?(?:[\w.]*\.)?(\w+).*", r"\1", str(error))
    source = _text(shown, _names(frame), {})
    return phrases.line(source, "success", phrases.kind(wanted))


def _innermost(traceback: TracebackType | None) -> tuple[FrameType | None, int]:
    """The frame that raised, and its line; pytest.raises' own frames are none of a suite's."""
    found: tuple[FrameType | None, int] = None, 0
    while traceback is not None:
        found = traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def _calls_before(path: Path, node: ast.Assert) -> dict[str, ast.Call]:
    functions = [
        each
        for each in ast.walk(_tree(path))
        if isinstance(each, ast.FunctionDef) and each.lineno <= node.lineno <= _end(each)
    ]
    found: dict[str, ast.Call] = {}
    for each in ast.walk(min(functions, key=lambda one: _end(one) - one.lineno, default=node)):
        if isinstance(each, ast.Assign) and each.lineno < node.lineno:
            [*_, target] = each.targets
            if isinstance(target, ast.Name):
                found.pop(target.id, None)
                if isinstance(each.value, ast.Call):
                    found[target.id] = each.value
    return found


def _names(frame: FrameType) -> dict[str, Any]:
    return {**frame.f_globals, **frame.f_locals}


@functools.lru_cache(maxsize=64)
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError):
        return ast.Module([], [])


@functools.lru_cache(maxsize=64)
def _asserts(path: Path) -> tuple[ast.Assert, ...]:
    return tuple(node for node in ast.walk(_tree(path)) if isinstance(node, ast.Assert))


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _constant(node: ast.AST | None) -> str:
    """The name of a constant; "" for any other expression."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name if re.fullmatch(r"[A-Z][A-Z0-9_]+", name) else ""


def _source(node: ast.AST, statement: Statement) -> str:
    if isinstance(node, ast.Name) and node.id not in statement.calls:
        return node.id
    name = _ioctl(node, statement)
    return name or _text(node, statement.names, statement.calls)


def _ioctl(node: ast.AST, statement: Statement) -> str:
    """The name of the ioctl whose result this is; "" where it is none."""
    if not (isinstance(node, ast.Attribute) and node.attr in ("errno", "ok")):
        return ""
    call: ast.AST | None = node.value
    if isinstance(call, ast.Name):
        call = statement.calls.get(call.id)
    for each in ast.walk(call) if call is not None else ():
        name = _constant(each)
        if name.startswith(("KVM_", "SEV_ISSUE")):
            return name
        number = statement.names.get(each.id) if isinstance(each, ast.Name) else None
        if type(number) is int and number in _ioctls():
            return _ioctls()[number]
    return ""


@functools.cache
def _ioctls() -> dict[int, str]:
    """Names of KVM's ioctls by number, which holds the size of the argument, too."""
    return {
        value: name
        for name, value in vars(kvm).items()
        if name.startswith("KVM_") and type(value) is int and value >> 8 & 0xFF == kvm.KVMIO
    }


def _text(node: ast.AST, names: dict[str, Any], calls: dict[str, ast.Call]) -> str:
    """An expression as it is written, with the numbers and calls that its names stand for."""
    for known in (calls, {}):
        text = ast.unparse(_Readable(names, known).visit(_copy(node)))
        if len(text) <= FAILURE_WIDTH // 2:
            break
    return phrases.shortened(text, FAILURE_WIDTH // 2)


def _copy(node: ast.AST) -> ast.AST:
    return ast.parse(ast.unparse(node)).body[0]


class _Readable(ast.NodeTransformer):
    """Leaves out what only unpacks an answer, and puts numbers for the names of numbers."""

    def __init__(self, names: dict[str, Any], calls: dict[str, ast.Call]) -> None:
        self.names = names
        self.calls = calls

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Only the expression."""
        return self.visit(node.value)  # type: ignore[no-any-return]

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Leave out the `value` of an answer."""
        inner = self.visit(node.value)
        if node.attr == "value" and isinstance(inner, ast.Call):
            return inner
        return ast.Attribute(inner, node.attr, node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave out check() of an answer."""
        if isinstance(node.func, ast.Attribute) and node.func.attr == "check" and not node.args:
            return self.visit(node.func.value)  # type: ignore[no-any-return]
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Write numbers as in all other places."""
        if type(node.value) is int:
            return ast.Name(phrases.number(node.value), ast.Load())
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """An address is worth more than the name of a variable."""
        value = self.names.get(node.id)
        if type(value) is int:
            return ast.Name(phrases.number(value), ast.Load())
        call = self.calls.get(node.id)
        if call is not None:
            return self._inside(call)
        return node

    def _inside(self, call: ast.Call) -> ast.AST:
        """The call that a name stands for, with its own names as they are."""
        return _Readable(self.names, {}).visit(_copy(call))  # type: ignore[no-any-return]
