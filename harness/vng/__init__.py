# SPDX-License-Identifier: GPL-2.0-only
"""Kernels under test in QEMU: the machine, the boot, the console, and what they died of."""
