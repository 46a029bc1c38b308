# SPDX-License-Identifier: GPL-2.0-only
"""The SNP machine: QEMU with the patches of qemu/, and what belongs beside it."""
