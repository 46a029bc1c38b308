# SPDX-License-Identifier: GPL-2.0-only
"""Stands in for QEMU and a guest: QMP, a console, a shell, and an end, as the arguments say.

    boots          says "userspace" on the console, serves commands (guests/linux/serve's protocol)
    silent         says nothing
    echoes         says on the console what is typed there; a line "over" ends it
    refuses        complains and ends with status 1

A command is run on this machine; `poweroff -f` and `reboot -f` end it as they end a guest.
"""

import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

how = sys.argv[1]
console, commands, monitor = (socket.socket(fileno=number) for number in (10, 11, 12))
lock = threading.Lock()


def tell(message: dict[str, object]) -> None:
    with lock:
        monitor.sendall(json.dumps(message).encode() + b"\r\n")


def event(name: str, **data: object) -> None:
    stamp = {"seconds": 1, "microseconds": 0}
    tell({"event": name, "data": data, "timestamp": stamp})


def questions() -> Iterator[dict[str, str]]:
    """Take one JSON object after the other: nothing else ends a question."""
    text = ""
    while data := monitor.recv(4096):
        text += data.decode()
        while text.strip():
            try:
                asked, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break  # the rest is to come
            yield asked
            text = text[end:].lstrip()


def serve_monitor() -> None:
    version = {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": ""}
    tell({"QMP": {"version": version, "capabilities": []}})
    for asked in questions():
        number: dict[str, object] = {"id": asked["id"]} if "id" in asked else {}
        if asked["execute"] == "human-monitor-command":
            tell({"error": {"class": "GenericError", "desc": "no"}, **number})
            continue
        if asked["execute"] == "inject-nmi":
            event("NMI_TOLD", by="fake")
        tell({"return": {}, **number})


def serve_commands() -> None:
    commands.sendall(b"noise of the firmware\r\n")
    for line in commands.makefile("rb"):
        number, _, text = line.decode().strip().partition(" ")
        command = base64.b64decode(text).decode()
        if command in ("poweroff -f", "reboot -f"):
            reason = "guest-shutdown" if command == "poweroff -f" else "guest-reset"
            event("SHUTDOWN", guest=True, reason=reason)
            sys.exit(0)
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        answer = base64.encodebytes(done.stdout + done.stderr).replace(b"\n", b"\r\n")
        commands.sendall(f"BEGIN {number}\r\n".encode() + answer)
        commands.sendall(f"END {number} {done.returncode}\r\n".encode())


if how == "refuses":
    print("fake: -machine: no such thing\x1b[2J", file=sys.stderr)
    sys.exit(1)
threading.Thread(target=serve_monitor, daemon=True).start()
print("fake: warning: it is not real", file=sys.stderr)
console.sendall(b"OVMF speaks\r\n")
if how == "boots":
    console.sendall(b"[    1.000000] SNPTEST-GUEST userspace\r\n")
    serve_commands()
if how == "echoes":
    while data := console.recv(4096):
        console.sendall(data)
        if b"over" in data:
            sys.exit(0)
threading.Event().wait()
