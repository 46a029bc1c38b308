# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel prints when something is wrong with itself: found, decoded, known or not."""

from harness.splats.extract import Splat, find_splats
from harness.splats.patterns import Kind

__all__ = ["Kind", "Splat", "find_splats"]
