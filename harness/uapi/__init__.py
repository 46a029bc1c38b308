# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's interface as data: structures, numbers, and how v12, merged and 7.3 differ.

Names are the kernel's own; import the submodules (kvm, sev, ghcb, vmsa, errors, interfaces).
"""
