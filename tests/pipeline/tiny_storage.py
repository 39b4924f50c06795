"""A tiny Cloud Storage: real HTTP on loopback, for objects of a folder or of a test's own, and for every kind of refusal."""

from __future__ import annotations

import base64
import collections
import contextlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import google_crc32c
import loopback_http

CUT, DAMAGED = "cut off in the middle", "another checksum"


class TinyStorage:
    """Serves `objects`, by URI, and the files below `root/BUCKET`.

    `says` are answers for a URI, used up one by one: an HTTP status, CUT or DAMAGED; a last one of None stays for good.
    `reads` counts what was asked for.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.objects: dict[str, bytes] = {}
        self.says: dict[str, list[int | str | None]] = {}
        self.reads: collections.Counter[str] = collections.Counter()
        self.denies_after: int | None = None
        tiny = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = re.fullmatch(r"/download/storage/v1/b/([^/]+)/o/(.+)", urlsplit(self.path).path)
                if found:
                    tiny._answer(self, f"gs://{found[1]}/{unquote(found[2])}")
                else:  # the library asks about the bucket, too, and does without an answer
                    _refuse(self, 403)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = loopback_http.server(Handler)

    @property
    def url(self) -> str:
        return loopback_http.url(self._server)

    @contextlib.contextmanager
    def serving(self) -> Iterator[TinyStorage]:
        with loopback_http.serving(self._server):
            yield self

    def _answer(self, handler: BaseHTTPRequestHandler, uri: str) -> None:
        self.reads[uri] += 1
        says = self._next(uri)
        content = self.objects.get(uri)
        if content is None and self.root is not None:
            path = self.root / uri.removeprefix("gs://")
            content = path.read_bytes() if path.is_file() else None
        if isinstance(says, int) or content is None:
            _refuse(handler, says if isinstance(says, int) else 404)
            return
        hashed = content + b"x" if says == DAMAGED else content
        checksum = google_crc32c.value(hashed).to_bytes(4, "big")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("X-Goog-Hash", f"crc32c={base64.b64encode(checksum).decode()}")
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # a reader that has read enough
            handler.wfile.write(content[: len(content) // 2] if says == CUT else content)
        handler.close_connection = handler.close_connection or says == CUT

    def _next(self, uri: str) -> int | str | None:
        if self.denies_after is not None and self.reads.total() > self.denies_after:
            return 403
        says = self.says.get(uri)
        if not says:
            return None
        return says[0] if len(says) == 2 and says[1] is None else says.pop(0)


def _refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
