"""A `tephra serve` of our own: on a free port, in a directory of its own, stopped at the end."""

import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 60
"""How long anything that must happen may take. Long, because it only bounds a failure."""

NEWEST = "3.71"
BLOCK = 64 * 1024


def binary() -> str:
    """The program under test: `TEPHRA_BIN`, or the newer of what cargo has built."""
    if chosen := os.environ.get("TEPHRA_BIN"):
        return chosen
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "release/tephra", target / "debug/tephra") if path.exists()]
    if not built:
        raise FileNotFoundError(f"no tephra under {target}: cargo build --release")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def until(what: str, condition, deadline_s: float = DEADLINE_S):
    """Waits until `condition` gives something true and returns it; fails naming `what`."""
    end = time.monotonic() + deadline_s
    while True:
        last = condition()
        if last:
            return last
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The process, its address, and the files it keeps."""

    def __init__(self, directory: pathlib.Path, config: str | None = None):
        self.directory = directory
        self.data_dir = directory / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "serve.log"
        self.config = None
        if config is not None:
            self.config = directory / "tephra.toml"
            self.config.write_text(config)
        self.process = None

    def start(self) -> "Server":
        command = [binary(), "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data_dir)]
        if self.config:
            command += ["--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            until("the server is ready", self._ready)
        except AssertionError:
            self.kill()
            raise
        return self

    def _ready(self) -> bool:
        code = self.process.poll()
        assert code is None, f"serve ended with {code}:\n{self.log.read_text(errors='replace')[-4000:]}"
        try:
            return requests.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """Asks it to end, as a service manager does, and insists on a clean exit."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("serve did not end after SIGTERM") from None
        assert code == 0, f"serve ended with {code}:\n{self.log.read_text(errors='replace')[-4000:]}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    # The volumes as files.

    def volume_file(self, volume_id: str) -> pathlib.Path:
        return self.data_dir / "volumes" / f"volume-{volume_id}"

    def snapshot_file(self, snapshot_id: str) -> pathlib.Path:
        return self.data_dir / "volumes" / f"snapshot-{snapshot_id}"

    def rest(self, token: str, project: str | None = None, version: str | None = NEWEST) -> "Rest":
        return Rest(self, token, project, version)


class Rest:
    """Plain HTTP as one user, for what the clients cannot or will not say."""

    def __init__(self, server: Server, token: str | None, project: str | None, version: str | None):
        self.server = server
        self.base = f"{server.url}/v3" + (f"/{project}" if project else "")
        self.session = requests.Session()
        if token is not None:
            self.session.headers["X-Auth-Token"] = token
        if version is not None:
            self.session.headers["OpenStack-API-Version"] = f"volume {version}"

    def call(self, method: str, path: str, body=None, *, version: str | None = None, headers=None, data=None):
        """One request; a body that is no string is sent as JSON."""
        headers = dict(headers or {})
        if version is not None:
            headers["OpenStack-API-Version"] = f"volume {version}"
        if body is not None:
            data = json.dumps(body)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        url = path if path.startswith("http") else f"{self.base}{path}"
        return self.session.request(method, url, data=data, headers=headers, timeout=DEADLINE_S)

    def get(self, path: str, expected: int = 200, **options):
        return self._checked(self.call("GET", path, **options), expected)

    def post(self, path: str, body, expected: int = 202, **options):
        return self._checked(self.call("POST", path, body, **options), expected)

    def put(self, path: str, body, expected: int = 200, **options):
        return self._checked(self.call("PUT", path, body, **options), expected)

    def delete(self, path: str, expected: int = 202, **options):
        return self._checked(self.call("DELETE", path, **options), expected)

    def action(self, path: str, action: str, arguments=None, expected: int = 202, **options):
        return self.post(f"{path}/action", {action: arguments}, expected, **options)

    @staticmethod
    def _checked(response, expected: int):
        assert response.status_code == expected, f"{response.request.method} {response.url}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    # Whole stories, for tests that need a resource and not the way to it.

    def volume(self, size: int = 1, **attributes) -> dict:
        created = self.post("/volumes", {"volume": {"size": size, **attributes}})["volume"]
        return self.settled("volumes", created["id"])

    def snapshot(self, volume_id: str, **attributes) -> dict:
        created = self.post("/snapshots", {"snapshot": {"volume_id": volume_id, **attributes}})["snapshot"]
        return self.settled("snapshots", created["id"])

    def settled(self, collection: str, resource_id: str, status: str = "available") -> dict:
        """Waits until a resource has this status; fails at once if it ends in error instead."""
        singular = collection.rstrip("s")

        def reached():
            resource = self.get(f"/{collection}/{resource_id}")[singular]
            assert resource["status"] == status or not resource["status"].startswith("error"), resource
            return resource if resource["status"] == status else None

        return until(f"{singular} {resource_id} is {status}", reached)

    def gone(self, collection: str, resource_id: str) -> None:
        until(f"{collection} {resource_id} is gone", lambda: self.call("GET", f"/{collection}/{resource_id}").status_code == 404)


def fault(response, status: int, name: str) -> str:
    """Insists on Cinder's fault body and gives its message."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    body = response.json()
    assert list(body) == [name], body
    assert body[name]["code"] == status, body
    return body[name]["message"]


# The data in the volumes.

def write(path: pathlib.Path, seed: str, offsets=(0, 300 * BLOCK, -BLOCK)) -> None:
    """Writes blocks that only `seed` gives at the beginning, in the middle and at the very end."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset % size)
            file.write(pattern(seed, offset % size))
        file.flush()
        os.fsync(file.fileno())


def pattern(seed: str, offset: int) -> bytes:
    """64 KiB that follow from the seed and the place."""
    return hashlib.shake_128(f"{seed}@{offset}".encode()).digest(BLOCK)


def content(path: pathlib.Path) -> dict[int, str]:
    """Everything in a file: a digest for each block that is not all zeroes, holes or no holes."""
    zeroes = bytes(BLOCK)
    blocks = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            position -= position % BLOCK
            while position < hole:
                file.seek(position)
                block = file.read(BLOCK)
                if block != zeroes[: len(block)]:
                    blocks[position] = hashlib.sha256(block).hexdigest()
                position += BLOCK
    return blocks


def gib(size: int) -> int:
    return size * 1024**3


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"
