# SPDX-License-Identifier: GPL-2.0-only
"""Collects what says whether a machine can run SNP guests, and why not; changes nothing.

    python3 -I collect.py OPTIONS

Standard library only, Python 3.9 or newer; the same program here and, sent, on a remote host.
OPTIONS is JSON in base64: `mark`, which precedes its two lines, "ready" and a JSON object.
What cannot be read is None, with the reason beside it; harness/preflight/judge.py makes sense
of it.  Register and command numbers: AMD's APM volumes 2 and 3, and SEV firmware ABI (56860).
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import glob
import gzip
import json
import mmap
import os
import re
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

APART_TIMEOUT = 10.0
"""Seconds for what asks a driver: a PSP that is stuck must not hang us."""

MSRS = {
    "syscfg": 0xC0010010,
    "hwcr": 0xC0010015,
    "vm_cr": 0xC0010114,
    "rmp_base": 0xC0010132,
    "rmp_end": 0xC0010133,
    "rmp_cfg": 0xC0010136,
}
"""rmp_cfg: only where there are segmented RMPs; elsewhere it cannot be read."""
LEAVES = (0x1, 0x8000000A, 0x8000001F, 0x80000025)
CONFIGS = (
    "CONFIG_KVM_AMD",
    "CONFIG_KVM_AMD_SEV",
    "CONFIG_CRYPTO_DEV_CCP_DD",
    "CONFIG_CRYPTO_DEV_SP_PSP",
    "CONFIG_AMD_IOMMU",
)
PARAMETERS = {
    "kvm_amd": ("sev", "sev_es", "sev_snp", "npt", "nrips", "lbrv"),
    "kvm": ("mmio_caching",),
}
_KVM_CHECK_EXTENSION, _KVM_CAP_VM_TYPES = 0xAE03, 235
_SEV_ISSUE_CMD = 0xC0105300
_PLATFORM_STATUS, _SNP_PLATFORM_STATUS = 1, 9
_SYSLOG_READ_ALL, _SYSLOG_SIZE = 3, 10
_LOG_LINE = re.compile(rb"SEV|SNP|RMP|\bSME\b|AMD-Vi|IOMMU|ccp |kvm_amd|SVM ")
_LOG_LINES = 80
"""Of them: IOMMUs that log faults can fill a log."""
_PARAMETER = re.compile(
    r"(amd_|intel_)?iommu(\.\w+)?=|(kvm|kvm_amd|ccp)\.|sev=|mem_encrypt=|nosmp|maxcpus=|nr_cpus="
    r"|nosmt|module_blacklist=|clearcpuid="
)
"""Of the kernel's command line; the rest of it is nobody's business."""


def read(path: str, limit: int = 1 << 20) -> str | None:
    """Return a text file's content, None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode(errors="replace")
    except OSError:
        return None


def cpu() -> dict[str, str]:
    """Return the first CPU's part of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in (read("/proc/cpuinfo", 1 << 16) or "").splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break
        found[key.strip()] = value.strip()
    return found


def cpuid(leaf: int) -> list[int]:
    """Execute CPUID: eax, ebx, ecx, edx; OSError where no code can be made."""
    # mov r8,rdx; mov eax,edi; xor ecx,ecx; push rbx; cpuid; store the four; pop rbx; ret
    code = bytes.fromhex("4989d089f831c9530fa241890041895804418948084189500c5bc3")
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    buffer = ctypes.c_char.from_buffer(memory)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    registers = (ctypes.c_uint32 * 4)()
    kind(ctypes.addressof(buffer))(leaf, 0, ctypes.addressof(registers))
    return list(registers)


def leaves() -> dict[str, list[int]] | None:
    """Return the leaves of CPUID that matter; None on another architecture, or where refused."""
    if os.uname().machine != "x86_64":
        return None
    try:
        return {f"{leaf:#x}": cpuid(leaf) for leaf in LEAVES}
    except (OSError, ValueError):
        return None


def registers() -> dict[str, Any]:
    """Return the MSRs that can be read, and why the others cannot."""
    found: dict[str, Any] = {}
    try:
        fd = os.open("/dev/cpu/0/msr", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return {"error": error.strerror or "unknown"}
    try:
        for name, number in MSRS.items():
            try:
                (found[name],) = struct.unpack("<Q", os.pread(fd, 8, number))
            except (OSError, struct.error):
                found[name] = None
    finally:
        os.close(fd)
    return found


def config(release: str) -> dict[str, str] | None:
    """Return the kernel's configuration, as far as it matters, from where distributions keep it."""
    text = None
    try:
        with gzip.open("/proc/config.gz", "rt", errors="replace") as file:
            text = file.read(1 << 22)
    except (OSError, EOFError):
        for path in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
            text = text or read(path)
    if not text:
        return None
    lines = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"CONFIG_\w+=", line))
    return {name: lines.get(name, "n") for name in CONFIGS}


def modules() -> dict[str, Any]:
    """Say which modules are there, their parameters, and what modprobe is told of them."""
    parameters = {
        f"{module}.{name}": (read(f"/sys/module/{module}/parameters/{name}") or "").strip() or None
        for module, names in PARAMETERS.items()
        for name in names
    }
    lines = []
    for path in sorted(glob.glob("/etc/modprobe.d/*.conf") + glob.glob("/run/modprobe.d/*.conf")):
        for line in (read(path) or "").splitlines():
            if re.match(r"\s*(options|blacklist|install)\s+(kvm[-_]amd|kvm|ccp)\b", line):
                lines.append(f"{path}: {' '.join(line.split())}")
    names = ("kvm", "kvm_amd", "ccp")
    return {
        "loaded": [name for name in names if os.path.isdir(f"/sys/module/{name}")],
        "parameters": parameters,
        "modprobe": lines[:10],
    }


def iommu() -> dict[str, Any]:
    """Return the AMD IOMMUs' features, and what kind of domain devices are in."""
    features = [
        (read(path) or "").strip()
        for path in sorted(glob.glob("/sys/class/iommu/ivhd*/amd-iommu/features"))
    ]
    types = {(read(path) or "").strip() for path in glob.glob("/sys/kernel/iommu_groups/*/type")}
    return {"features": features, "types": sorted(types)}


def log() -> list[str] | None:
    """Return the kernel log's lines that matter, None where it may not be read."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = libc.klogctl(_SYSLOG_SIZE, None, 0)
    if size < 0:
        return None
    buffer = ctypes.create_string_buffer(min(size, 1 << 24))
    length = libc.klogctl(_SYSLOG_READ_ALL, buffer, len(buffer))
    if length < 0:
        return None
    return chosen(buffer.raw[:length])


def chosen(raw: bytes) -> list[str]:
    """Return the lines that matter: the first of them, from the boot, and the last."""
    lines = [line for line in raw.splitlines() if _LOG_LINE.search(line)]
    if len(lines) > _LOG_LINES:
        lines = lines[: _LOG_LINES // 2] + lines[-_LOG_LINES // 2 :]
    return [re.sub(rb"^<\d+>", b"", line)[:300].decode(errors="replace") for line in lines]


def kvm() -> dict[str, Any]:
    """Ask /dev/kvm for the types of VM that it makes."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return {"error": error.errno, "text": error.strerror}
    try:
        return {"types": fcntl.ioctl(fd, _KVM_CHECK_EXTENSION, _KVM_CAP_VM_TYPES)}
    except OSError as error:
        return {"error": error.errno, "text": error.strerror}
    finally:
        os.close(fd)


def sev() -> dict[str, Any]:
    """Ask the PSP's firmware for its version and state."""
    try:
        fd = os.open("/dev/sev", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return {"error": error.errno, "text": error.strerror}
    found: dict[str, Any] = {}
    try:
        for name, command in (("sev", _PLATFORM_STATUS), ("snp", _SNP_PLATFORM_STATUS)):
            status = ctypes.create_string_buffer(64)
            request = bytearray(struct.pack("<IQI", command, ctypes.addressof(status), 0))
            try:
                fcntl.ioctl(fd, _SEV_ISSUE_CMD, request)
            except OSError as error:
                found[name] = {"error": error.errno, "text": error.strerror}
                found[name]["firmware"] = struct.unpack("<IQI", request)[2]
                continue
            if name == "sev":  # struct sev_user_data_status
                major, minor, state, _, build = struct.unpack_from("<BBBIB", status.raw)
                found[name] = {"api": [major, minor], "state": state, "build": build}
            else:  # struct sev_user_data_snp_status
                major, minor, state, flags, build = struct.unpack_from("<BBBBI", status.raw)
                found[name] = {"api": [major, minor], "state": state, "build": build}
                found[name]["rmp"] = flags & 1
    finally:
        os.close(fd)
    return found


def apart(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask in a process of its own; that it did not answer in time is an answer, too."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    data = b""
    if select.select([reading], [], [], APART_TIMEOUT)[0]:
        data = os.read(reading, 1 << 16)
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0 if data else os.WNOHANG)
    try:
        answer: dict[str, Any] = json.loads(data)
        return answer
    except ValueError:
        return {"error": 0, "text": f"no answer within {APART_TIMEOUT:.0f} s"}


def main(options: dict[str, Any]) -> None:
    """Print the evidence."""
    mark = options["mark"]
    uname = os.uname()
    about = cpu()
    evidence = {
        "machine": uname.machine,
        "node": uname.nodename,
        "release": uname.release,
        "python": sys.version.partition(" ")[0],
        "user": os.geteuid(),
        "vendor": about.get("vendor_id", ""),
        "model_name": about.get("model name", ""),
        "flags": [
            flag
            for flag in about.get("flags", "").split()
            if flag in ("svm", "sev", "sev_es", "sev_snp", "sme", "hypervisor")
        ],
        "cpuid": leaves(),
        "msr": registers(),
        "cmdline": [w for w in (read("/proc/cmdline") or "").split() if _PARAMETER.match(w)],
        "config": config(uname.release),
        "modules": modules(),
        "iommu": iommu(),
        "log": log(),
        "kvm": apart(kvm),
        "sev": apart(sev),
    }
    print(f"\n{mark} ready\n\n{mark} {json.dumps(evidence)}", flush=True)


main(json.loads(base64.b64decode(sys.argv[-1])))
