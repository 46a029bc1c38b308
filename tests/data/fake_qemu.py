# SPDX-License-Identifier: GPL-2.0-only
"""Stands in for QEMU and a guest: QMP, a console, a shell, and an end, as the arguments say.

    boots          says "userspace" on the console, serves commands (guests/linux/serve's protocol)
    silent         says nothing
    oopses         its kernel does, says more than a message can show, and panics as above
    echoes         says on the console what is typed there; a line "over" ends it
    refuses        complains and ends with status 1
    terminates     stops as QEMU 10 does where a guest asks to be terminated by its GHCB
    panics         tells of a panic and ends, as for a guest with pvpanic
    terminates-11  ends as QEMU 11 does where a guest asks to be terminated
    stops          stops as QEMU does for another exit of KVM that it does not know

A command is run on this machine; `poweroff -f` and `reboot -f` end it as they end a guest.
"""

import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

OOPS = (
    b"[    2.000000] BUG: unable to handle page fault for address: ffffffffa2205000\r\n"
    b"[    2.000001] #PF: supervisor read access in kernel mode\r\n"
    b"[    2.000002] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI\r\n"
    b"[    2.000003] RIP: 0010:guilty_function+0x10/0x20\r\n"
    b"[    2.000004] ---[ end trace 0000000000000000 ]---\r\n"
)
how = sys.argv[1]
console, commands, monitor = (socket.socket(fileno=number) for number in (10, 11, 12))
lock = threading.Lock()
greeted = threading.Event()


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
        greeted.set()
        number: dict[str, object] = {"id": asked["id"]} if "id" in asked else {}
        if asked["execute"] == "human-monitor-command":
            tell({"error": {"class": "GenericError", "desc": "no"}, **number})
            continue
        if asked["execute"] == "query-status":
            status = "internal-error" if how in ("terminates", "stops") else "paused"
            tell({"return": {"status": status, "running": False}, **number})
            continue
        if asked["execute"] == "stop":
            event("STOP")
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
if how in ("terminates", "stops"):
    reason = 24 if how == "terminates" else 38
    print(f"KVM: unknown exit reason {reason}\nEAX=00000000 EBX=00000000", file=sys.stderr)
    sys.stderr.flush()
    greeted.wait(30)  # QEMU tells nothing before its monitor's first question
    event("STOP")
if how == "oopses":
    console.sendall(OOPS + b"[    3.000000] and more of it\r\n" * 500)
if how in ("panics", "terminates-11", "oopses"):
    greeted.wait(30)
    info = {"info": {"type": "sev", "set": 1, "code": 5}} if how == "terminates-11" else {}
    event("GUEST_PANICKED", action="shutdown", **info)
    event("SHUTDOWN", guest=True, reason="guest-panic")
    sys.exit(0)
if how == "boots":
    console.sendall(b"[    1.000000] SNPTEST-GUEST userspace\r\n")
    serve_commands()
if how == "echoes":
    while data := console.recv(4096):
        console.sendall(data)
        if b"over" in data:
            sys.exit(0)
threading.Event().wait()
