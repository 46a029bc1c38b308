# SPDX-License-Identifier: GPL-2.0-only
"""Process 1 of the virtual machine that stands for a remote host: network, a disk, sshd.

The root is this machine's, read-only over 9p; what the host keeps over a reset is its disk,
another 9p share, at /tmp/disk.  Where that names a kernel for the next boot, and only that one,
it is booted by kexec before anybody can log in, as boot loaders do that are a Linux themselves.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time

DISK = "/tmp/disk"
NEXT = f"{DISK}/next"
MOUNTS = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devpts", "/dev/pts", "devpts", ""),
    ("tmpfs", "/dev/shm", "tmpfs", ""),
    ("tmpfs", "/run", "tmpfs", ""),
    ("tmpfs", "/var/tmp", "tmpfs", ""),
    ("tmpfs", "/root", "tmpfs", ""),
    ("tmpfs", "/tmp", "tmpfs", ""),
    ("disk", DISK, "9p", "trans=virtio,version=9p2000.L,cache=none"),
)
libc = ctypes.CDLL(None, use_errno=True)

for source, target, kind, options in MOUNTS:
    os.makedirs(target, exist_ok=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()):
        print("box: no", target, os.strerror(ctypes.get_errno()), flush=True)
for folder in ("/run/sshd", "/run/lock"):
    os.makedirs(folder, mode=0o755, exist_ok=True)
os.environ.clear()
os.environ.update(PATH=f"{DISK}/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
with open("/sys/kernel/notes", "rb") as notes, open(f"{DISK}/boots", "a") as boots:
    boots.write(notes.read().hex() + "\n")
if os.path.exists(NEXT):
    with open(NEXT) as file:
        image = file.read().strip()
    os.unlink(NEXT)
    print("box: once", image, flush=True)
    subprocess.run(["kexec", "--load", image, "--reuse-cmdline"], check=False)
    subprocess.run(["kexec", "-e"], check=False)  # returns where nothing was loaded
for words in ("link set lo up", "addr add 10.0.2.15/24 dev eth0", "link set eth0 up"):
    subprocess.run(["ip", *words.split()], check=False)
subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", f"{DISK}/sshd_config"])
print("box: up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(1)
