# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands have, the same in each; those of a target all at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.kernels import complete_base, complete_config, complete_kernel
from harness.cli.machine import complete_machine
from harness.target import OPTIONS, Target

Command = Callable[..., None]


def complete_host(incomplete: str) -> list[str]:
    """Return the hosts that begin so, for shell completion."""
    from harness.errors import UserError
    from harness.ssh import hosts

    try:
        return [name for name in hosts.load() if name.startswith(incomplete)]
    except UserError:
        return []


def complete_firmware(incomplete: str) -> list[str]:
    """Name the firmware that begins so, for the shell."""
    from harness.linuxguest import catalogue

    return [name for name in catalogue.load().firmware if name.startswith(incomplete)]


def complete_guest_kernel(incomplete: str) -> list[str]:
    """Name the kernels for guests that begin so, for the shell."""
    from harness.kbuild.kernel import list_kernels
    from harness.linuxguest import catalogue

    names = [*catalogue.load().kernels, *(each.name for each in list_kernels())]
    return [name for name in names if name.startswith(incomplete)]


_COMPLETED = {
    "kernel": complete_kernel,
    "machine": complete_machine,
    "host": complete_host,
    "firmware": complete_firmware,
    "guest_kernel": complete_guest_kernel,
}
"""What a shell completes, by the names of a target's fields."""


def of_target(name: str, help: str = "") -> Any:
    """Return the option of a target's field, with the help of a command's own where it has one."""
    option = OPTIONS[name]
    return typer.Option(
        option.flag,
        metavar=option.metavar,
        help=help or option.help,
        autocompletion=_COMPLETED.get(name),
        show_default=option.type is int,
    )


def with_target(
    *names: str, boots: bool | Sequence[str] = False, **helps: str
) -> Callable[[Command], Command]:
    """Give a command the options of a target, and their values as one Target, its `target`.

    names: of its fields, or all.
    boots: whether it boots a kernel in any case, or which other options of it ask for one.
    helps: what a field's option is in this command, instead of what it is in `run`.
    """
    chosen = names or tuple(OPTIONS)

    def give(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters: list[inspect.Parameter] = []
        for each in own:
            if each.name == "target":
                parameters += [_parameter(name, helps.get(name, "")) for name in chosen]
            else:
                parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def called(**given: Any) -> None:
            said = {name: given.pop(name) for name in chosen}
            asked = boots if isinstance(boots, bool) else any(given[name] for name in boots)
            command(target=Target.of(said.get, boots=asked), **given)

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return give


def _parameter(name: str, help: str) -> inspect.Parameter:
    option = OPTIONS[name]
    # Of the two kinds of defaults, only a number says nothing about the others.
    number = option.type is int
    kind: Any = int if number else option.type | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default if number else None,
        annotation=Annotated[kind, of_target(name, help)],
    )


Machine = Annotated[str | None, of_target("machine")]
Host = Annotated[str | None, of_target("host")]
Firmware = Annotated[str | None, of_target("firmware")]
GuestKernel = Annotated[str | None, of_target("guest_kernel")]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="BASE",
        help="build a kernel of these sources first, as `snptest build` does, and run in it",
        autocompletion=complete_base,
    ),
]
Series = Annotated[
    list[str] | None,
    typer.Option(metavar="SERIES", help="with the patches of these, as for `build`; again: more"),
]
Config = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="with this configuration", autocompletion=complete_config),
]
Expression = Annotated[
    str | None, typer.Option("-k", metavar="EXPR", help="only tests that match, as in pytest")
]
Workers = Annotated[
    str, typer.Option("-n", metavar="N", help="kernels side by side: a number, or auto")
]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="write JUnit XML")]
Ktap = Annotated[Path | None, typer.Option(metavar="FILE", help="write KTAP; - is stdout")]
JsonLines = Annotated[
    Path | None, typer.Option(metavar="FILE", help="write a JSON line per result as it ends")
]
