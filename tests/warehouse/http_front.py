"""A small HTTP front for tests: ClickHouse's HTTP protocol, answered by chDB.

This is a test double of the transport with the real engine behind it. It takes what
clickhouse-connect sends (statements, settings, parameters in the URL or as form
fields, inserts with data) and runs it in the chDB of this process. It is no ClickHouse
server: no users and rights, no limits on sizes, results are not streamed while they
are computed, and data of inserts goes through a temporary file. Results that rest on
it say nothing about these. With BEAMMETER_TEST_CLICKHOUSE_URL set, the tests use a
real server instead.

    python -m tests.warehouse.http_front FOLDER     prints its port, serves until killed

`POST /fault?status=500&code=202&times=2` makes the next requests fail that way
(`status=0`: the connection is closed without an answer; `status=200`: half of the
answer is sent). `seconds=3` waits before that. `written=100` carries an insert out first,
`written=50` half of its rows: the client is told that it failed. Requests to the path
`/safe` never fail that way. A user other than `default` is refused.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import pyarrow as pa

TRANSPORT = {
    "query",
    "database",
    "default_format",
    "wait_end_of_query",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "enable_http_compression",
    "client_protocol_version",
    "session_id",
    "query_id",
    "compress",
    "decompress",
    "buffer_size",
    "role",
}
INSERT = re.compile(rb"\s*(INSERT INTO .*?) FORMAT (\w+)\s*\Z", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)


class Engine:
    """Connections to one folder, one at a time for each set of settings."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._keep = chdb.connect(folder)
        self._idle: dict[tuple[tuple[str, str], ...], list[Any]] = {}
        self._lock = threading.Lock()

    def run(
        self, sql: str, output: str, database: str, settings: dict[str, str], params: dict[str, str]
    ) -> bytes:
        key = (("database", database), *sorted(settings.items()))
        with self._lock:
            idle = self._idle.setdefault(key, [])
            connection = idle.pop() if idle else None
        if connection is None:
            connection = chdb.connect(self._folder)
            connection.query(f"USE `{database}`")
            for name, value in settings.items():
                connection.query(f"SET {name} = '{value}'")
        content: bytes = connection.query(sql, output, params=params).bytes() or b""
        with self._lock:
            self._idle[key].append(connection)
        return content


class Faults:
    """Failures that were asked for."""

    def __init__(self) -> None:
        self.status = self.code = self.times = self.seconds = self.written = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Engine
    faults = Faults()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve(body)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def _serve(self, body: bytes) -> None:
        url = urlsplit(self.path)
        fields = dict(parse_qsl(url.query, keep_blank_values=True))
        if url.path == "/ping":
            return self._answer(200, b"Ok.\n")
        if url.path == "/fault":
            for name in vars(self.faults):
                setattr(self.faults, name, int(fields.get(name, 0)))
            return self._answer(200, b"")
        safe = url.path == "/safe"
        if self.faults.times > 0 and self.faults.status != 200 and not safe:
            self.faults.times -= 1
            if self.faults.written:
                self._write_a_part(fields, body, self.faults.written)
            time.sleep(self.faults.seconds)
            if self.faults.status == 0:
                self.close_connection = True
                self.connection.close()
                return None
            return self._fail(self.faults.status, self.faults.code, "asked for")
        if self.headers.get("X-ClickHouse-User", "default") != "default" or (
            "Authorization" in self.headers and "ZGVmYXVsdDo=" not in self.headers["Authorization"]
        ):
            return self._fail(403, 516, "Authentication failed")
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            fields |= form_fields(body, kind.split("boundary=")[1])
            body = b""
        try:
            return self._run(fields, body)
        except RuntimeError as error:
            text = str(error)
            code = int((re.findall(r"Code: (\d+)", text) or ["0"])[0])
            return self._fail(404 if code in (60, 81) else 500, code, text)

    def _run(self, fields: dict[str, str], body: bytes) -> None:
        params = {k.removeprefix("param_"): v for k, v in fields.items() if k.startswith("param_")}
        settings = {
            k: v for k, v in fields.items() if k not in TRANSPORT and not k.startswith("param_")
        }
        database = fields.get("database", "default")
        query = fields.get("query", "").encode()
        if not query and (line := body.find(b"\n")) >= 0 and INSERT.match(body[:line]):
            query, body = body[:line], body[line + 1 :]
        elif not query:
            query, body = body, b""
        insert = INSERT.match(query)
        if insert is not None and body:
            self._insert(fields, insert, body)
            return self._answer(200, b"")
        sql = query.decode()
        named = FORMAT.search(sql)
        output = named[1] if named else fields.get("default_format", "TabSeparated")
        content = self.engine.run(sql, output, database, settings, params)
        return self._answer(200, content, {"X-ClickHouse-Format": output} if content else {})

    def _write_a_part(self, fields: dict[str, str], body: bytes, percent: int) -> None:
        insert = INSERT.match(fields.get("query", "").encode())
        if insert is None or not insert[2].startswith(b"Arrow") or not body:
            return
        open_table = pa.ipc.open_stream if insert[2] == b"ArrowStream" else pa.ipc.open_file
        table = open_table(pa.py_buffer(body)).read_all()
        part = table.slice(0, table.num_rows * percent // 100)
        sink = pa.BufferOutputStream()
        new = pa.ipc.new_stream if insert[2] == b"ArrowStream" else pa.ipc.new_file
        with new(sink, table.schema) as writer:
            writer.write_table(part)
        self._insert(fields, insert, sink.getvalue().to_pybytes())

    def _insert(self, fields: dict[str, str], insert: re.Match[bytes], body: bytes) -> None:
        params = {k.removeprefix("param_"): v for k, v in fields.items() if k.startswith("param_")}
        settings = {
            k: v for k, v in fields.items() if k not in TRANSPORT and not k.startswith("param_")
        }
        with tempfile.NamedTemporaryFile(suffix=".data") as file:
            file.write(body)
            file.flush()
            sql = f"{insert[1].decode()} FROM INFILE '{file.name}' FORMAT {insert[2].decode()}"
            database = fields.get("database", "default")
            self.engine.run(sql, "TabSeparated", database, settings, params)

    def _fail(self, status: int, code: int, text: str) -> None:
        message = text if text.startswith("Code:") else f"Code: {code}. DB::Exception: {text}"
        headers = {"X-ClickHouse-Exception-Code": str(code)} if code else {}
        self._answer(status, message.encode() if code else b"", headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        if self.faults.times > 0 and self.faults.status == 200 and len(content) > 1000:
            self.faults.times -= 1
            content = content[: len(content) // 2]
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Summary", "{}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def form_fields(body: bytes, boundary: str) -> dict[str, str]:
    fields = {}
    for part in body.split(b"--" + boundary.encode()):
        head, found, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if found and name:
            fields[name[1].decode()] = content.removesuffix(b"\r\n").decode()
    return fields


def main() -> None:
    Handler.engine = Engine(os.path.realpath(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
