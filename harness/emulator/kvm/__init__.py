# SPDX-License-Identifier: GPL-2.0-only
"""The emulated KVM: what Linux's kvm, kvm_amd and ccp do with SNP, over the modelled hardware."""
