# SPDX-License-Identifier: GPL-2.0-only
"""What tests talk to: Host, Vm, Vcpu, GuestMemfd and Guest, over any `Kernel`."""
