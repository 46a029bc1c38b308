# SPDX-License-Identifier: GPL-2.0-only
"""An SNP host in this process: physical memory, RMP, PSP, processors and the kernel's KVM.

Read it from the bottom: `memory`, `rmp`, `psp`, `cpu`, `kvm`, then `emulator`, which offers
them as a `harness.kernel.Kernel`.
"""
