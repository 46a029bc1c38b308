# SPDX-License-Identifier: GPL-2.0-only
"""What OpenSSH would do for a host, as OpenSSH itself says: `ssh -G`.

Nothing else knows Match, Include, CanonicalizeHostname and the defaults of a distribution as
ssh does.  What `ssh -G` prints as it was written (names of key files, ProxyCommand) has its
tokens replaced here, by the rules of ssh_config(5), TOKENS.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from harness.distributions import how_to_install
from harness.errors import UsageError
from harness.report import sanitize
from harness.ssh.hosts import Host
from harness.ssh.problems import Unreachable

VARIABLE = "SNPTEST_SSH_CONFIG"
"""Environment variable that names the only configuration file to be read, as `ssh -F` does."""
TIMEOUT = 60.0
"""Seconds for one `ssh -G`: commands of `Match exec` run in it, and names may be looked up."""
PACKAGE = "openssh-client"

_NOISE = ("debug", "warning", "pseudo-terminal", "percent_dollar_expand: failed")


@dataclass(frozen=True)
class Settings:
    """The options that hold for one host."""

    asked: str
    """The host's name as ssh was given it."""
    values: Mapping[str, tuple[str, ...]]
    """By lower-case name; an option that may be repeated has one value a line."""

    def get(self, name: str) -> str | None:
        """Return an option, None where it is not set or `none`."""
        value = self.values.get(name, ("none",))[0].strip()
        return None if value.lower() in ("none", "") else value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return whether an option is on; some versions print yes, others true."""
        value = self.get(name)
        return default if value is None else value.lower() not in ("no", "false")

    def each(self, name: str) -> list[str]:
        """Return the values of an option that may be repeated, less `none`."""
        return [value for value in self.values.get(name, ()) if value.lower() != "none"]

    def paths(self, name: str) -> tuple[Path, ...]:
        """Return the files of an option that has several on one line, printed without quotes.

        One may have a space in it, for the next begins with / or ~: relative names may not.
        """
        found = (each for part in self.each(name) for each in _apart(part))
        return tuple(self._home(each) for each in found)

    def path(self, text: str, option: str) -> Path:
        """Return the file that an option names by ~, tokens and variables."""
        return Path(self.expanded(str(self._home(text)), option))

    def expanded(self, text: str, option: str, *, variables: bool = True) -> str:
        """Replace tokens, and ${VARIABLES}; UsageError where there is no such thing."""

        def value(match: re.Match[str]) -> str:
            name = match[0][1:]
            if match[0].startswith("$"):
                found = os.environ.get(name[1:-1])
            else:
                found = self._tokens.get(name)
            if found is None:
                raise UsageError(
                    f"the ssh configuration for {self.asked}: {option} has "
                    f"{sanitize.line(match[0])}, which stands for nothing"
                )
            return found

        return re.sub(r"%.?|\$\{[^}]*\}?" if variables else r"%.?", value, text)

    def _home(self, text: str) -> Path:
        """Replace ~ and ~USER by the home that the user database has, as ssh does: not $HOME."""
        if not text.startswith("~"):
            return Path(text)
        name, _, rest = text[1:].partition("/")
        try:
            entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
        except KeyError:
            raise UsageError(
                f"the ssh configuration for {self.asked}: {sanitize.line(text)} has no user"
            ) from None
        return Path(entry.pw_dir, rest.lstrip("/"))

    @cached_property
    def _tokens(self) -> dict[str, str]:
        me = pwd.getpwuid(os.getuid())
        node = socket.gethostname()
        jump = self.get("proxyjump") or ""
        return {
            "%": "%",
            "C": (self.get("controlpath") or "").removeprefix("/"),
            "d": me.pw_dir,
            "h": self.get("hostname") or "",
            "i": str(me.pw_uid),
            "j": re.sub(r".*[,@]|:\d+$|[][]", "", jump),
            "k": self.get("hostkeyalias") or self.asked,
            "L": node.partition(".")[0],
            "l": node,
            "n": self.asked,
            "p": self.get("port") or "",
            "r": self.get("user") or "",
            "u": me.pw_name,
        }


def _apart(text: str) -> Iterator[str]:
    """Tell several paths apart that are printed with a space between them."""
    for part in re.split(r" (?=[/~])", text):
        # Half of a name with a space would be another file, with keys that nobody named.
        yield from [part] if part.startswith(("/", "~")) else part.split()


def ask(host: Host) -> Settings:
    """Ask ssh what holds for a host; UsageError, with its words, where it refuses to say.

    Unreachable where its configuration has names looked up, and there is none.
    """
    shown = sanitize.line(host.address)
    program = shutil.which("ssh")
    if program is None:
        raise UsageError(
            "there is no program ssh, which reads the ssh configuration", how_to_install([PACKAGE])
        )
    file = os.environ.get(VARIABLE)
    words = [program, *(["-F", file] if file else []), "-G", "-T"]
    # The first has ssh compute %C.  The second leaves room for a command, as tests run one:
    # `Match sessiontype exec` goes by it.
    words += ["-o", "ControlPath=/%C", "-o", "RemoteCommand=none"]
    words += [] if host.port is None else ["-p", str(host.port)]
    words += [] if host.user is None else ["-l", host.user]
    status, output, said = _run([*words, "--", host.address, "true"], shown)
    if status:
        reason = _reason(said, status)
        if "Could not resolve" in reason:
            raise Unreachable(f"{shown}: ssh finds no such host: {reason}")
        raise UsageError(
            f"ssh does not take its configuration for {shown}: {reason}",
            f"{VARIABLE} names the file" if file else f"see `ssh -G {shown}`",
        )
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        name, _, value = line.partition(" ")
        values.setdefault(name.lower(), []).append(value)
    if not {"hostname", "user", "port"} <= values.keys():
        raise UsageError(
            f"{program} is not OpenSSH's: `ssh -G` says no host name", how_to_install([PACKAGE])
        )
    return Settings(host.address, {name: tuple(each) for name, each in values.items()})


def _run(words: list[str], shown: str) -> tuple[int, str, str]:
    """Run ssh; return its status and what it wrote.

    Into files: a daemon that a `Match exec` starts would keep a pipe open.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, process_group=0
        )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"`ssh -G {shown}` has not ended in {TIMEOUT:.0f} s",
                "does a command of `Match exec` in the ssh configuration wait for something?",
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return status, _text(out), _text(errors)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _reason(said: str, status: int) -> str:
    """Return what ssh says is wrong: the file and line may come after it; the last only sums up."""
    lines = (line.strip() for line in said.splitlines())
    wrong = [line for line in lines if line and not line.lower().startswith(_NOISE)]
    wrong = [line for line in wrong if ": terminating, " not in line][:2]
    return sanitize.line("; ".join(wrong), 300) or f"it ended with status {status}"
