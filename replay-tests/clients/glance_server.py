"""A small Glance: the v2 calls that a block storage service and its clients make, over real HTTP.

It keeps images in a directory, checks the token, streams in both directions, and can misbehave as
real ones do: stop in the middle of a file, lose an image, say what is not so.
"""

import hashlib
import http.server
import json
import pathlib
import re
import threading
import uuid

CHUNK = 256 * 1024
TOKEN = "the-glance-token"
READ_ONLY = {"status", "size", "checksum", "os_hash_algo", "os_hash_value", "file", "self"}


class Glance:
    """Runs in threads of the test's own process, on a free port."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.token_file = directory / "token"
        self.token_file.write_text(TOKEN + "\n")
        self.images: dict[str, dict] = {}
        self.tokens = {TOKEN}
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.gates: dict[str, Gate] = {}
        self.cuts: set[str] = set()
        self.refuses_data = False
        glance = self

        class Handler(_Handler):
            server_glance = glance

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for gate in self.gates.values():
            gate.open()
        self.http.shutdown()
        self.http.server_close()

    def config(self) -> str:
        return f'[images]\nstore = "glance"\nurl = "{self.url}"\ntoken_file = "{self.token_file}"\n'

    def path(self, image_id: str) -> pathlib.Path:
        return self.directory / image_id

    def add(self, data: bytes | pathlib.Path, disk_format: str, **fields) -> str:
        """An image as somebody else has uploaded it; `fields` may lie."""
        image_id = str(uuid.uuid4())
        data = data if isinstance(data, bytes) else data.read_bytes()
        self.path(image_id).write_bytes(data)
        image = described(image_id, {"disk_format": disk_format, "container_format": "bare", "name": "an image"})
        image |= facts(data) | {"status": "active", "visibility": "public"} | fields
        with self.lock:
            self.images[image_id] = image
        return image_id

    def holds(self, image_id: str) -> "Gate":
        """From now on this image's file stops in the middle, until the gate is opened."""
        self.gates[image_id] = Gate()
        return self.gates[image_id]

    def loses(self, image_id: str) -> None:
        """In the middle of the next download the image is deleted and the connection lost."""
        self.cuts.add(image_id)


class Gate:
    """Where a stream waits."""

    def __init__(self):
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        self.reached.set()
        self._opened.wait(120)


def described(image_id: str, fields: dict) -> dict:
    return {
        "id": image_id, "name": None, "status": "queued", "visibility": "shared", "protected": False,
        "min_disk": 0, "min_ram": 0, "size": None, "checksum": None, "os_hash_algo": None, "os_hash_value": None,
        "owner": "somebody", "tags": [], "self": f"/v2/images/{image_id}", "file": f"/v2/images/{image_id}/file",
        "schema": "/v2/schemas/image", "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    } | fields


def facts(data: bytes) -> dict:
    return {
        "size": len(data),
        "checksum": hashlib.md5(data).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_glance: Glance

    def log_message(self, *_arguments) -> None:
        """Quiet."""

    def _answer(self, status: int, body=None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if body is not None:
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self) -> None:
        glance = self.server_glance
        body = self._body()
        path = self.path.split("?")[0].rstrip("/")
        glance.requests.append(f"{self.command} {path}")
        if path in ("", "/v2"):
            links = [{"rel": "self", "href": f"{glance.url}/v2/"}]
            return self._answer(300, {"versions": [{"id": "v2.16", "status": "CURRENT", "links": links}]})
        if self.headers.get("X-Auth-Token") not in glance.tokens:
            return self._answer(401)
        if path == "/v2/images":
            return self._collection(body)
        if not (found := re.fullmatch(r"/v2/images/([^/]+)(/file)?", path)):
            return self._answer(404)
        image_id, is_file = found.groups()
        with glance.lock:
            image = glance.images.get(image_id)
        if image is None:
            return self._answer(404)
        return self._file(image, body) if is_file else self._image(image, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _collection(self, body: bytes) -> None:
        glance = self.server_glance
        if self.command == "GET":
            name = re.search(r"[?&]name=([^&]*)", self.path)
            with glance.lock:
                images = [image for image in glance.images.values() if not name or image["name"] == name[1]]
            return self._answer(200, {"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"})
        if self.command != "POST":
            return self._answer(405)
        fields = json.loads(body)
        if READ_ONLY & set(fields):
            return self._answer(403)
        image_id = fields.get("id") or str(uuid.uuid4())
        with glance.lock:
            if image_id in glance.images:
                return self._answer(409)
            glance.images[image_id] = described(image_id, fields)
            return self._answer(201, glance.images[image_id])

    def _image(self, image: dict, body: bytes) -> None:
        glance = self.server_glance
        if self.command == "GET":
            return self._answer(200, image)
        if self.command == "PATCH":
            with glance.lock:
                for change in json.loads(body):
                    key = change["path"].lstrip("/")
                    if change["op"] == "remove":
                        image.pop(key, None)
                    else:
                        image[key] = change["value"]
            return self._answer(200, image)
        if self.command == "DELETE":
            if image["protected"]:
                return self._answer(403)
            with glance.lock:
                glance.images.pop(image["id"], None)
            glance.path(image["id"]).unlink(missing_ok=True)
            return self._answer(204)
        return self._answer(405)

    def _file(self, image: dict, body: bytes) -> None:
        glance = self.server_glance
        if self.command == "PUT":
            if image["status"] not in ("queued", "saving"):
                return self._answer(409)
            if glance.refuses_data:
                return self._answer(413)
            if gate := glance.gates.get("upload"):
                gate.wait()
            glance.path(image["id"]).write_bytes(body)
            with glance.lock:
                image |= facts(body) | {"status": "active"}
            return self._answer(204)
        data = glance.path(image["id"]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        middle = len(data) // 2
        try:
            self.wfile.write(data[:middle])
            if image["id"] in glance.cuts:
                with glance.lock:
                    glance.images.pop(image["id"], None)
                self.close_connection = True
                return None
            if gate := glance.gates.get(image["id"]):
                gate.wait()
            for start in range(middle, len(data), CHUNK):
                self.wfile.write(data[start : start + CHUNK])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None
