# SPDX-License-Identifier: GPL-2.0-only
"""Files that users write, every key with every wrong value: what was found, and what is wanted."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import apt
from harness.differential import compare
from harness.errors import UsageError
from harness.kselftest import catalogue
from harness.machine.source import Sources
from harness.nightly import schedule
from harness.splats import known
from harness.ssh import hosts
from harness.tables import Values, close_to, read, shown


@dataclass(frozen=True)
class Reader:
    """A kind of file: what reads it, and a text that is right, with every key."""

    load: Callable[[Path], object]
    text: str
    typo: tuple[str, str]
    """A key and what somebody wrote."""


def sources(path: Path) -> object:
    return Sources(None, None, print, path)  # type: ignore[arg-type]  # nothing is fetched


READERS = {
    "hosts": Reader(
        hosts.load,
        """\
[hosts.milan1]
address = "milan1.lab.example.org"
user = "root"
port = 22
key = "~/.ssh/id_lab"
jump = "gate"
sudo = true
has = ["snp", "genoa"]
power-cycle = "ipmitool power cycle"
console = "conserver milan1"
boot-timeout = 600
silence = 20
lock = "/run/lock/x"
folder = "/var/lib/x"
[hosts.milan1.boot]
how = "one-shot"
command = "grub-reboot x"
prepare = "true"
parameters = "quiet"
reboot = "reboot"
""",
        ("silence", "silense"),
    ),
    "nightly": Reader(
        schedule.load,
        """\
name = "farm"
suites = ["gmem"]
hours = 8
job-hours = 2
confirm = 2
[revisions.new]
base = "linux-source-6.12"
series = ["x.mbox"]
config = ["debug"]
[revisions.old]
kernel = "old"
[revisions.v12]
interface = "v12"
[revisions.now]
running = true
[places.milan]
backend = "ssh"
hosts = ["milan1"]
machine = "snp"
memory = "1G"
seed = 3
firmware = "trixie"
guest-kernel = "7.x"
guest-qemu = "/opt/qemu"
coordinator = "labgrid.example.org"
suites = ["psc"]
revisions = ["new"]
options = ["-k x"]
[places.here]
backend = "emulator"
""",
        ("confirm", "confirms"),
    ),
    "known issues": Reader(
        known.load,
        """\
[[issue]]
id = "one"
pattern = "WARNING"
reason = "it warns"
link = "https://example.org/1"
kernels = ">=6.8"
interfaces = ["v12"]
environment = "vng"
[[issue]]
id = "two"
test = ["*test_x*"]
fails = "EIO"
strict = false
reason = "it fails"
link = "https://example.org/2"
[[issue]]
id = "three"
skips = "pages of 4 KiB"
reason = "it skips"
link = "https://example.org/3"
""",
        ("environment", "enviroment"),
    ),
    "selftests": Reader(
        catalogue.load,
        """\
timeout = 120
[[group]]
tests = ["guest_memfd*"]
default = true
timeout = 240
memory = 512
why = "the thing itself"
""",
        ("timeout", "timout"),
    ),
    "suites of apt": Reader(
        apt._suites,
        """\
keyring = "/usr/share/keyrings/x.gpg"
[[suite]]
name = "sid"
component = "main"
type = "deb"
packages = ["linux-source-*"]
""",
        ("component", "componet"),
    ),
    "qemu's sources": Reader(
        sources,
        f"""\
series = "10.0"
package = "qemu"
keyring = "/usr/share/keyrings/x.gpg"
[[suite]]
name = "sid"
component = "main"
type = "deb-src"
packages = ["qemu"]
[[tarball]]
url = "https://example.org/qemu.tar.xz"
sha256 = "{"0" * 64}"
""",
        ("sha256", "sha265"),
    ),
    "differences": Reader(
        compare.documented,
        """\
[[difference]]
id = "x"
operation = "store.*"
field = "errno"
emulator = "EINVAL"
target = "EIO"
wrong = "emulator"
reason = "r"
source = "s"
ends = false
""",
        ("operation", "operaton"),
    ),
}
VALUES = (
    *("3", "-1", "0", "70000", "2.5", "nan", "inf", "true", "false", "''", "'  '", "'x'"),
    *("'\\u001b[31mred'", '"a\\nb\\u001b[2J"', "'%s'" % ("long " * 40), "[]", "[3]", "['']"),
    *("['a b', 'c']", "[['x']]", "{}", "{ a = 1 }", "2026-01-02", "07:32:00", "'('", "['x', 3]"),
)
"""What a value may be, in TOML."""
SECRET = ("power-cycle", "console")


def lines_with_keys(text: str) -> list[tuple[int, str]]:
    """Return the lines that set a key, by number, and the key."""
    lines = enumerate(text.splitlines())
    return [(at, line.partition(" = ")[0]) for at, line in lines if " = " in line]


CASES = [
    (name, at, key) for name, each in READERS.items() for at, key in lines_with_keys(each.text)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a name that is found in messages."""
    return tmp_path / "somebody's.toml"


def said(reader: Reader, path: Path) -> str | None:
    """Load; return the message, one safe line with the file's name, None where all is well."""
    error = mistake(reader, path)
    if error is None:
        return None
    assert str(path) in error.message
    assert "\n" not in error.message
    assert "\x1b" not in str(error)
    return str(error)


def mistake(reader: Reader, path: Path) -> UsageError | None:
    try:
        reader.load(path)
    except UsageError as error:
        return error
    return None


@pytest.mark.parametrize("name", READERS)
def test_what_is_right_is_taken(name: str, path: Path) -> None:
    path.write_text(READERS[name].text)
    assert said(READERS[name], path) is None
    path.write_bytes(b"\xef\xbb\xbf" + READERS[name].text.replace("\n", "\r\n").encode())
    compare.documented.cache_clear()
    assert said(READERS[name], path) is None, "as an editor on Windows writes it"


@pytest.mark.parametrize(("name", "at", "key"), CASES)
def test_every_key_with_every_wrong_value(name: str, at: int, key: str, path: Path) -> None:
    """It is taken, or the message has file, key, the value found, and what is wanted."""
    reader = READERS[name]
    for value in VALUES:
        lines = reader.text.splitlines()
        lines[at] = f"{key} = {value}"
        path.write_text("\n".join(lines))
        compare.documented.cache_clear()
        message = said(reader, path)
        if message is None:
            continue
        found = shown(tomllib.loads(f"x = {value}")["x"])
        assert key in message, (value, message)
        assert "; want " in message, (value, message)
        if key in SECRET:
            assert found not in message.replace(str(path), "") or found == "a table"
        elif " given" not in message and " names " not in message:
            assert found in message, (value, message)


@pytest.mark.parametrize(("name", "at", "key"), CASES)
def test_every_key_left_out(name: str, at: int, key: str, path: Path) -> None:
    reader = READERS[name]
    lines = reader.text.splitlines()
    del lines[at]
    path.write_text("\n".join(lines))
    compare.documented.cache_clear()
    message = said(reader, path)
    assert message is None or "; want " in message


@pytest.mark.parametrize("name", READERS)
def test_a_key_that_nobody_knows(name: str, path: Path) -> None:
    reader = READERS[name]
    right, written = reader.typo
    path.write_text(reader.text.replace(f"\n{right} = ", f"\n{written} = ", 1))
    message = said(reader, path) or said_of_first(reader, path)
    assert f"{written} is no key that is known; want one of " in message
    assert f"(did you mean {right}?)" in message


def said_of_first(reader: Reader, path: Path) -> str:
    """The key is the file's first line."""
    right, written = reader.typo
    path.write_text(reader.text.replace(f"{right} = ", f"{written} = ", 1))
    return said(reader, path) or ""


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = \n", "is no TOML: line 2, column 5: Invalid value"),
        ("a = 1\na = 2\n", "is no TOML: line 2, column 6: Cannot overwrite a value"),
        ("[a]\n\n[a]\n", "is no TOML: line 3, column 3: Cannot declare ('a',) twice"),
        ("\n[a", "is no TOML: line 2, its end: Expected ']'"),
        ("a = 'x", "is no TOML: line 1, its end: Expected"),
        (b"# ok\na = '\xff'\n", "is no TOML: line 2 has the byte 0xff; want UTF-8"),
        ("a = 1\n".encode("utf-16"), "has the byte 0xff; want UTF-8"),
    ],
)
def test_what_is_no_toml_is_told_by_its_place(
    name: str, text: str | bytes, message: str, path: Path
) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in (said(READERS[name], path) or "")


@pytest.mark.parametrize("name", READERS)
def test_files_that_cannot_be_read(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SNPTEST_HOSTS", str(path))
    assert "does not exist" in (said(READERS[name], path) or "")
    path.mkdir()
    assert "cannot be read: Is a directory; want a file" in (said(READERS[name], path) or "")
    loop = tmp_path / "loop.toml"
    loop.symlink_to("loop.toml")
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert "cannot be read: Too many levels" in (said(READERS[name], loop) or "")


@pytest.mark.parametrize("name", READERS)
def test_files_of_another_shape(name: str, path: Path) -> None:
    """A list where tables are wanted, and the other way round."""
    data = tomllib.loads(READERS[name].text)
    for key in [each for each in data if isinstance(data[each], dict | list)]:
        for value in ("3", "'x'", "[3]", "[]", "{ x = 3 }"):
            path.write_text(f"{key} = {value}\n{_flat(data)}")
            compare.documented.cache_clear()
            message = said(READERS[name], path)
            assert message is None or "; want " in message


def _flat(data: dict[str, Any]) -> str:
    simple = ((key, value) for key, value in data.items() if isinstance(value, str | int))
    return "".join(f"{key} = {shown(value)}\n" for key, value in simple)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (70000, "70000"),
        (True, "true"),
        ("", '""'),
        ('say "x"', '"say \\"x\\""'),
        ("\x1b[31mred\nx", '"red x"'),
        ("é", '"é"'),
        (["a", 3], '["a", 3]'),
        ({"a": 1}, "a table"),
        ([{"a": 1}], "[a table]"),
    ],
)
def test_values_are_shown_as_toml_has_them(value: object, text: str) -> None:
    assert shown(value) == text


def test_long_values_are_shortened() -> None:
    assert len(shown("x" * 1000)) == len(shown(["x" * 30] * 1000)) == 60


def test_of_a_secret_only_the_kind_is_shown(path: Path) -> None:
    for value, kind in itertools.product(("geheim", ["geheim"], 4711), ("a text", "a list")):
        values = Values(
            path, "hosts.a", {"console": value}, ("console",), "", frozenset({"console"})
        )
        message = str(values.wrong("console", "nothing"))
        assert "geheim" not in message
        assert "4711" not in message
        assert (kind in message) is (type(value) is (str if kind == "a text" else list))


def test_several_mistakes_are_told_in_the_same_order(path: Path) -> None:
    messages = set()
    for _ in range(5):
        with pytest.raises(UsageError) as caught:
            Values(path, "x", {"zz": 1, "yy": 2, "xx": 3}, ("a",))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert "x.xx is no key" in messages.pop()


def test_what_is_not_close_is_not_guessed() -> None:
    assert close_to("port", ["prt"]) == "did you mean prt?"
    assert close_to("colour", ["port"]) == ""


def test_ours_are_right() -> None:
    for file in ("kernels/sources.toml", "kernels/v12.toml", "ci/hosts.toml", "ci/nightly.toml"):
        read(Path(__file__).resolve().parents[1] / file)
