# SPDX-License-Identifier: GPL-2.0-only
"""Changes bytes in the memory of a process on the host, as a host that attacks a guest can.

    python3 rewrite.py WORD OLD NEW

WORD is one of its command line's; OLD and NEW are hexadecimal, of one length.  Memory that is
shared (the guest's own) is left alone.  Prints how often OLD was there.
"""

import os
import sys


def process(word: bytes) -> int:
    """Return the process that has a word on its command line."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue  # it has ended
        if int(name) != os.getpid() and word in words:
            return int(name)
    sys.exit(f"no process has the word {word.decode()}")


def private(pid: int) -> list[tuple[int, int]]:
    """Return the process's own memory: begin and end of each part."""
    found = []
    with open(f"/proc/{pid}/maps") as lines:
        for line in lines:
            span, permissions, *rest = line.split()
            if permissions.startswith("r") and "s" not in permissions and "[v" not in rest[-1]:
                begin, _, end = span.partition("-")
                found.append((int(begin, 16), int(end, 16)))
    return found


def change(pid: int, old: bytes, new: bytes) -> int:
    """Write `new` wherever `old` is; return how often that was."""
    count = 0
    with open(f"/proc/{pid}/mem", "r+b", 0) as memory:
        for begin, end in private(pid):
            memory.seek(begin)
            try:
                data = memory.read(end - begin) or b""
            except OSError:
                continue  # of a file, behind its end
            at = data.find(old)
            while at >= 0:
                memory.seek(begin + at)
                memory.write(new)
                count += 1
                at = data.find(old, at + len(old))
    return count


if __name__ == "__main__":
    word, old, new = sys.argv[1:]
    print(change(process(word.encode()), bytes.fromhex(old), bytes.fromhex(new)))
