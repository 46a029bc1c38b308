# SPDX-License-Identifier: GPL-2.0-only
"""A logical processor that runs SNP guests from their VMSA, and plain guests, on Unicorn."""
