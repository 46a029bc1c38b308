# SPDX-License-Identifier: GPL-2.0-only
"""A machine as its port shows it: an agent on this one's streams; when that dies, the next boot's.

What stands in a file `half` of the working directory is said between them: the end of a kernel
cuts a frame in two.
"""

import subprocess
import sys
from pathlib import Path

AGENT = Path(__file__).resolve().parents[2] / "harness" / "agent.py"
BOOTS = 3

for _ in range(BOOTS):
    if subprocess.run([sys.executable, "-I", str(AGENT)], check=False).returncode >= 0:
        break
    half = Path("half")
    if half.exists():
        sys.stdout.buffer.write(half.read_bytes())
        sys.stdout.buffer.flush()
