# SPDX-License-Identifier: GPL-2.0-only
"""Why SNP is off on a machine: evidence collected there, judged here."""
