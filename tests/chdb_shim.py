"""The current ClickHouse engine (chdb-core, in process) behind enough of ClickHouse's HTTP interface for our adapter.

Usage: chdb_shim.py PORT FOLDER [CONFIG]. For tests only: what 18.16 cannot tell us is whether a current server takes
the same SQL. One statement at a time; no users, no native port (`remote()` of 127.0.0.1:1 reads this engine itself),
no query ids. Settings of a request are SET first, so one that the engine does not know is an error, as on a server.
"""

import http.server
import re
import sys
import threading
import urllib.parse

from chdb.session import Session

# Parameters of the interface, not settings of the engine.
INTERFACE = {
    "query", "database", "default_format", "decompress", "query_id", "session_id", "session_timeout",
    "wait_end_of_query",
}
LOCK = threading.Lock()
OWN_SYSTEM = re.compile(r"remote\('127\.0\.0\.1:1', 'system', '(parts|mutations)'(?:, '(?:[^'\\]|\\.)*')*\)")
# merge() takes database and table as literals too.
OWN = re.compile(r"remote\('127\.0\.0\.1:1', ('(?:[^'\\]|\\.)*'), 'local'(?:, '(?:[^'\\]|\\.)*')*\)")


def decompress(body):
    """Frames of ClickHouse's own format; their checksums are not looked at."""
    out = b""
    while body:
        method, size, plain = body[16], int.from_bytes(body[17:21], "little"), int.from_bytes(body[21:25], "little")
        if len(body) < 16 + size:
            raise ValueError("cannot read all data: the frame is cut off")
        if method != 0x02 or size != 9 + plain:
            raise ValueError(f"unknown method of compression {method:#x}: only frames as they are, please")
        out += body[25 : 16 + size]
        body = body[16 + size :]
    return out


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = b""
        while True:
            size = int(self.rfile.readline(), 16)
            out += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return out

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(200, b"Ok.\n")

    def do_POST(self):
        parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))
        body = self.body()
        try:
            if parameters.get("decompress") == "1":
                body = decompress(body)
            query = parameters.get("query", "")
            text = (query + "\n" if query else "") + body.decode()
            text = OWN.sub(r"merge(\1, '^local$')", text)
            text = OWN_SYSTEM.sub(r"system.\1", text)
            with LOCK:
                for name, value in parameters.items():
                    if name not in INTERFACE:
                        SESSION.query("SET " + name + " = '" + value.replace("'", "\\'") + "'")
                result = SESSION.query(text, parameters.get("default_format", "TabSeparated"))
            self.answer(200, bytes(result.bytes() or b""))
        except Exception as error:  # whatever it is, the client is told
            code = re.search(r"Code: (\d+)", str(error))
            headers = [("X-ClickHouse-Exception-Code", code.group(1))] if code else []
            self.answer(500, str(error).encode(), headers)


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), sys.argv[2]
    SESSION = Session(folder + (f"?config-file={sys.argv[3]}" if len(sys.argv) > 3 else ""))
    SESSION.query("SELECT 1")
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
