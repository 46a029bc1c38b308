# SPDX-License-Identifier: GPL-2.0-only
"""snptest: the harness that validates AMD SEV-SNP host (KVM) patches."""
