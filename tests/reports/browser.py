"""A headless Chromium, spoken to by its DevTools protocol over two pipes: no driver to install and no port to find."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 120


def find_browser() -> str | None:
    """Return the path of a Chromium on this machine: that of $CHROMIUM, else the first of the usual names."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of one browser; console errors, failed loads and exceptions of the page collect in `errors`."""

    def __init__(self, program: str, profile: Path) -> None:
        # The browser reads commands from descriptor 3 and writes to 4; ours stay clear of these numbers.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for _ in range(2) for end in self._pipe()]
        theirs_in, self._out, self._in, theirs_out = ends[0], ends[1], ends[2], ends[3]
        null = os.open(os.devnull, os.O_RDWR)
        arguments = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "--force-color-profile=srgb", "about:blank"),
        ]
        self._process = os.posix_spawn(
            program,
            arguments,
            os.environ,
            setsid=True,
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
            ],
        )
        for end in (theirs_in, theirs_out, null):
            os.close(end)
        self._number, self._buffer, self._session = 0, b"", None
        self.errors: list[str] = []
        self._events: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    @staticmethod
    def _pipe() -> tuple[int, int]:
        return os.pipe()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0], "the browser says nothing"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has gone"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        method, facts = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(facts["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(facts["args"])[:500])
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')[:100]}")
        elif method == "Network.loadingFailed":
            self.errors.append(f"not loaded: {facts['errorText']} {facts.get('blockedReason', '')}")
        return message

    def open(self, url: str, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a page at a width in CSS pixels, and wait until it has loaded."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.send("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._read()

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: str | None = None) -> None:
        """Press and release a key, as a keyboard would: `Tab`, `Enter`, `ArrowDown`, or a character."""
        virtual = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        facts = {"key": key, "code": code or key, "windowsVirtualKeyCode": virtual.get(key, ord(key[0].upper()))}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self.send("Input.dispatchKeyEvent", type="keyUp", **facts)

    def click(self, selector: str, count: int = 1) -> None:
        """Click the middle of the first element that a selector finds, scrolled into view."""
        x, y = self.run(
            f"(async () => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);"  # lazy images get their places
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for number in range(1, count + 1):
            facts = {"x": x, "y": y, "button": "left", "clickCount": number}
            self.send("Input.dispatchMouseEvent", type="mousePressed", **facts)
            self.send("Input.dispatchMouseEvent", type="mouseReleased", **facts)

    def screenshot(self, path: Path, selector: str | None = None, whole: bool = False) -> None:
        """Write what is seen, an element, or the whole page as PNG."""
        clip = {}
        if selector or whole:
            box = self.run(
                f"(() => {{ const b = document.querySelector({json.dumps(selector or 'html')}).getBoundingClientRect();"
                " return [b.x + scrollX, b.y + scrollY, b.width, b.height]; })()"
            )
            clip = {"clip": dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}}
        data = self.send("Page.captureScreenshot", captureBeyondViewport=bool(clip), **clip)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser and what it started."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)
