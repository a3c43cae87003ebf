"""A bucket on loopback that keeps generations apart, and fails on demand.

`gcp-storage-emulator` stores the objects; it ignores preconditions and never fails. The proxy in
front of it refuses writes whose `ifGenerationMatch` is not met, answers for one generation only
where one is asked for, and damages what a test tells it to:

    with bucket_server.serve("hospital") as server:
        server.fail(["503", "cut_after"])        # the next two requests, then none
        server.fail(bucket_server.at_random(0.1, seed=0))
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import random
import re
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import gcp_storage_emulator.server

from trainer.storage.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

STATUS_FAULTS = ("401", "403", "429", "500", "503")
PASSING_FAULTS = ("429", "500", "503", "cut_before", "cut_after", "truncate", "slow")
"""A client that tries again gets past any of these."""
SLOW_S = 0.2

Answer = tuple[int, dict[str, str], bytes]


def at_random(share: float, seed: int) -> Iterator[str | None]:
    """Yields a fault for this share of the requests, the same ones for the same seed."""
    generator = random.Random(seed)
    while True:
        fails = generator.random() < share
        yield generator.choice(PASSING_FAULTS) if fails else None


class Server(http.server.ThreadingHTTPServer):
    """The proxy.

    Attributes:
      requests: "METHOD path" of each request, in order of arrival.
      injected: the faults that requests met.
    """

    daemon_threads = True

    def __init__(self, backend_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []
        self.injected: list[str] = []
        self._backend_port = backend_port
        self._faults: Iterator[str | None] = iter(())
        self._matching: Callable[[str], bool] = lambda _: True
        self._lock = threading.Lock()
        self._uploads: dict[str, tuple[str, int | None]] = {}
        self._pieces: dict[tuple[str | None, str | None], Answer] = {}

    @property
    def url(self) -> str:
        """What STORAGE_EMULATOR_HOST is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def client(self, bucket: str = "hospital", *, patience_s: float = 60) -> Bucket:
        """Opens a bucket as the trainer does, with short delays between tries."""
        return Bucket(bucket, patience_s=patience_s, first_delay_s=0.01)

    def fail(self, faults: Iterable[str | None], where: str = "") -> None:
        """Lets the next requests whose "METHOD path" matches the pattern meet these faults."""
        with self._lock:
            self._faults = iter(faults)
            self._matching = re.compile(where).search  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Lets clients hang up; anything else is a fault of this file."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def names(self, bucket: str) -> list[str]:
        """Returns the names of all objects."""
        _, _, body = self._forward("GET", f"/storage/v1/b/{bucket}/o")
        return sorted(item["name"] for item in json.loads(body)["items"])

    def read(self, bucket: str, name: str) -> bytes:
        """Returns an object, past all faults."""
        status, _, body = self._forward("GET", f"{_object_path(bucket, name)}?alt=media")
        assert status == 200, name
        return body

    def write(self, bucket: str, name: str, content: bytes) -> None:
        """Stores an object, past all faults and preconditions."""
        body = b"\r\n".join(
            [
                *(b"--x", b"content-type: application/json", b""),
                json.dumps({"name": name}).encode(),
                *(b"--x", b"content-type: application/octet-stream", b"", content, b"--x--"),
            ]
        )
        headers = {"content-type": "multipart/related; boundary=x"}
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        status, _, _ = self._forward("POST", path, body, headers)
        assert status == 200, name

    def draw_fault(self, request: str) -> str | None:
        """Notes a request, and returns what is to happen to it."""
        with self._lock:
            self.requests.append(request)
            fault = next(self._faults, None) if self._matching(request) else None
            if fault:
                self.injected.append(fault)
            return fault

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Does what is asked for, unless its precondition is not met."""
        with self._lock:  # What is compared and what is then done must not be parted.
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
            piece = (query.get("upload_id"), headers.get("content-range"))
            if piece in self._pieces:
                return self._pieces[piece]  # Bytes that have arrived already are ignored.
            refusal = self._refusal(method, path, query, body, headers)
            if refusal:
                return refusal, {}, json.dumps({"error": {"code": refusal}}).encode()
            answer = self._forward(method, path, body, headers)
            if piece[0] and answer[0] in (200, 308):
                self._pieces[piece] = answer
            self._remember(query, path, body, answer[1])
            return answer

    def _refusal(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> int | None:
        wanted: Any = query.get("ifGenerationMatch")
        if method == "GET":
            wanted = query.get("generation")
            is_other = wanted is not None and int(wanted) != self._generation(path)
            return 404 if is_other else None
        if "upload_id" in query:
            target, wanted = self._uploads[query["upload_id"]]
            if not _is_last_piece(headers):
                return None
        else:
            target = _upload_target(path, query, body) if "uploadType" in query else path
        is_other = wanted is not None and int(wanted) != self._generation(target)
        return 412 if is_other else None

    def _generation(self, path: str) -> int:
        """Returns the generation of the object at a path of the API; 0: there is none."""
        path = urllib.parse.urlsplit(path).path.removeprefix("/download")
        status, _, body = self._forward("GET", path)
        return int(json.loads(body)["generation"]) if status == 200 else 0

    def _remember(
        self, query: dict[str, str], path: str, body: bytes, headers: dict[str, str]
    ) -> None:
        """Notes what an upload in pieces is for; only its first request says so."""
        if "location" in headers:
            (upload_id,) = urllib.parse.parse_qs(headers["location"])["upload_id"]
            wanted = query.get("ifGenerationMatch")
            target = _upload_target(path, query, body)
            self._uploads[upload_id] = (target, None if wanted is None else int(wanted))

    def _forward(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        backend = http.client.HTTPConnection("127.0.0.1", self._backend_port)
        with contextlib.closing(backend):
            backend.request(method, path, body or None, headers or {})
            response = backend.getresponse()
            kept = {name.lower(): value for name, value in response.getheaders()}
            return response.status, kept, response.read()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.server.draw_fault(f"{self.command} {urllib.parse.unquote(self.path)}")
        if fault in STATUS_FAULTS:
            self._send((int(fault), {}, b'{"error": {"message": "as the test asked"}}'))
        elif fault == "cut_before":
            self._cut()
        else:
            if fault == "flip_sent":
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = self.server.answer(self.command, self.path, body, headers)
            self._send_damaged(fault, answer)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 -- http.server's names.

    def _send_damaged(self, fault: str | None, answer: Answer) -> None:
        status, headers, body = answer
        if fault == "cut_after":
            self._cut()
        elif fault == "truncate":
            self._send(answer, until=len(body) // 2)
            self._cut()
        elif fault == "flip" and body:
            self._send((status, headers, bytes([body[0] ^ 1]) + body[1:]))
        else:
            time.sleep(SLOW_S if fault == "slow" else 0)
            self._send(answer)

    def _send(self, answer: Answer, until: int | None = None) -> None:
        status, headers, body = answer
        self.send_response(status)
        hop = {"content-length", "connection", "transfer-encoding", "server", "date"}
        for name, value in headers.items():
            if name not in hop:
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:until])

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Keeps still."""


_JSON = {"content-type": "application/json"}


def _object_path(bucket: str, name: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"


def _upload_target(path: str, query: dict[str, str], body: bytes) -> str:
    """Returns the path of the object that an upload is about to make."""
    (bucket,) = re.findall(r"/b/([^/]+)/o", path)
    name = query.get("name")
    if name is None:
        start = body.index(b"{")
        name = json.JSONDecoder().raw_decode(body[start : start + 4096].decode("latin-1"))[0][
            "name"
        ]
    return _object_path(bucket, name)


def _is_last_piece(headers: dict[str, str]) -> bool:
    found = re.fullmatch(r"bytes \d+-(\d+)/(\d+)", headers.get("content-range", ""))
    return bool(found) and int(found[1]) + 1 == int(found[2])


@contextlib.contextmanager
def serve(*buckets: str) -> Iterator[Server]:
    """Runs a server with these buckets until the block ends."""
    backend = gcp_storage_emulator.server.create_server("127.0.0.1", 0, in_memory=True)
    backend.start()
    with Server(backend._api._httpd.server_port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for bucket in buckets:
            server._forward("POST", "/storage/v1/b", json.dumps({"name": bucket}).encode(), _JSON)
        yield server
        server.shutdown()
        thread.join()
    backend.stop()
