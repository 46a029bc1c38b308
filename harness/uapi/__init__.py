# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's interface as data: structures, numbers and the revisions that differ in them.

Names are the kernel's own; import the submodules (kvm, sev, ghcb, vmsa, errors, revisions).
"""
