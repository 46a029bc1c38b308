# SPDX-License-Identifier: GPL-2.0-only
"""A headless Chromium, driven by the DevTools protocol over its pipe (--remote-debugging-pipe).

Only what tests of pages need: a size, light or dark, what a script says, a picture.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from harness.host_packages import ensure_packages

PACKAGE = "chromium-headless-shell"
PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
DEADLINE = 60.0


def program() -> str:
    """Return a browser; Debian's is installed where there is none."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    ensure_packages([PACKAGE, "fonts-dejavu-core"], "to look at pages")
    found = shutil.which(PACKAGE)
    assert found is not None
    return found


class Browser:
    """One page of a browser.  Everything has a deadline."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="snptest-browser-", ignore_cleanup_errors=True
        )
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            program(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._folder.name}",
            "about:blank",
        ]
        # The browser reads commands from descriptor 3 and answers on 4.
        shell = 'r=$1 w=$2; shift 2; eval "exec 3<&$r 4>&$w"; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(to_browser), str(from_browser), *command],
            pass_fds=[to_browser, from_browser],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._pending = b""
        self._numbers = itertools.count(1)
        self._session = ""
        self.events: list[dict[str, Any]] = []
        """What the browser told unasked: errors of scripts, requests, what its policy blocked."""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return what it answers."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + DEADLINE
        while True:
            answer = self._next(until, method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result = answer["result"]
                assert isinstance(result, dict)
                return result
            self.events.append(answer)

    def wait(self, event: str) -> None:
        """Wait for something that the browser tells by itself."""
        until = time.monotonic() + DEADLINE
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._next(until, event))

    def _next(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser did not answer {what} in {DEADLINE:g} s"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, f"the browser ended during {what}"
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        decoded = json.loads(message)
        assert isinstance(decoded, dict)
        return decoded

    def show(self, path: Path, width: int, height: int, *, dark: bool) -> None:
        """Open a page in a window of that size, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """Return what an expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def problems(self) -> list[str]:
        """Return errors of scripts, blocked or foreign requests since the page was opened."""
        found = []
        for event in self.events:
            match event.get("method"):
                case "Runtime.exceptionThrown" | "Log.entryAdded":
                    found.append(json.dumps(event["params"])[:500])
                case "Network.requestWillBeSent":
                    url = event["params"]["request"]["url"]
                    if not url.startswith("file:"):
                        found.append(f"request: {url}")
        return found

    def picture(self, path: Path, height: int = 0) -> Path:
        """Save what the window shows, or the page down to a height, as PNG."""
        more: dict[str, Any] = {}
        if height:
            width = self.evaluate("document.documentElement.clientWidth")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            more = {"clip": clip, "captureBeyondViewport": True}
        data = self.call("Page.captureScreenshot", format="png", **more)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """End the browser."""
        os.killpg(self._process.pid, signal.SIGKILL)  # and its renderers
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
