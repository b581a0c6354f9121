"""An MCP server for the tests of the host: on standard input and output, or over streamable HTTP with `--http PORT`,
where with `--closing` a connection serves one request.

It is written from the specification, with nothing but Python. Every call is a line of the file `calls` in the folder
that OUTLAST_TEST_FOLDER names, and its process id is in the file `pid`.

| tool | behaviour |
|---|---|
| `echo` | answers with `text`; it only reads |
| `wait` | waits until there is a file `release`; nobody knows what becomes of it |
| `wait_again` | the same, and may be called again |
| `secret` | answers with the environment, and writes it to standard error |
| `fail`, `refuse` | an answer that is an error, an error of the protocol |
| `big` | answers with so many `bytes` |
| `die` | ends the process |
| `more` | offers one tool more from now on |
| `picture` | answers with a text and a picture |
| `where` | answers with its folder, what is in it, and the descriptors that it has |
"""

import json
import os
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["OUTLAST_TEST_FOLDER"])
ANYTHING = {"type": "object", "properties": {"text": {"type": "string"}, "bytes": {"type": "integer"}}}
HINTS = {"echo": {"readOnlyHint": True}, "wait_again": {"idempotentHint": True}}
LOCK = threading.Lock()
tools = ["echo", "wait", "wait_again", "secret", "fail", "refuse", "big", "die", "more", "picture", "odd.name", "where"]


def record(line):
    with LOCK, open(FOLDER / "calls", "a") as calls:
        calls.write(line + "\n")


def described(name):
    tool = {"name": name, "description": f"The tool {name}.", "inputSchema": ANYTHING}
    return {**tool, "annotations": HINTS[name]} if name in HINTS else tool


def descriptors():
    """The open descriptors, without the one that they are listed with."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink("/proc/self/fd/" + number)
        except FileNotFoundError:
            pass
    return found


def call(name, arguments, notify):
    """The content of an answer, and whether it is an error."""
    text = arguments.get("text", "")
    if name in ("wait", "wait_again"):
        while not (FOLDER / "release").exists():
            time.sleep(0.01)
        text = "released"
    elif name == "secret":
        text = json.dumps(dict(os.environ))
        print("my environment:", text, file=sys.stderr, flush=True)
    elif name == "fail":
        return [{"type": "text", "text": "it was told to fail"}], True
    elif name == "big":
        text = "x" * arguments["bytes"]
    elif name == "die":
        os._exit(1)
    elif name == "more":
        tools.append("one_more")
        notify({"method": "notifications/tools/list_changed"})
    elif name == "where":
        text = json.dumps({"cwd": os.getcwd(), "files": os.listdir("."), "open": descriptors()})
    elif name == "picture":
        return [{"type": "text", "text": "look:"}, {"type": "image", "data": "AAAA", "mimeType": "image/png"}], False
    return [{"type": "text", "text": text}], False


def answer(message, notify):
    """What a request is answered; none for a notification."""
    method, params = message.get("method"), message.get("params") or {}
    if method == "notifications/cancelled":
        record("cancelled")
    if "id" not in message or method is None:
        return None
    result = None
    if method == "initialize":
        info = {"name": "tester", "version": "1"}
        capabilities = {"tools": {"listChanged": True}}
        result = {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
    elif method == "ping":
        result = {}
    elif method == "tools/list":
        # In two pages.
        half = len(tools) // 2
        names, cursor = (tools[half:], None) if params.get("cursor") else (tools[:half], "rest")
        result = {"tools": [described(name) for name in names], **({"nextCursor": cursor} if cursor else {})}
    elif method == "tools/call":
        name, key = params["name"], (params.get("_meta") or {}).get("outlast/idempotency-key")
        record(f"{name} {key}")
        if name == "refuse":
            error = {"code": -32602, "message": "these arguments are none"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
        content, is_error = call(name, params.get("arguments") or {}, notify)
        result = {"content": content, "isError": is_error}
    if result is None:
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": f"no method {method}"}}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def stdio():
    def send(message):
        with LOCK:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            sys.stdout.flush()

    def serve(message):
        said = answer(message, send)
        if said:
            send(said)

    for line in sys.stdin:
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sessions = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") != "Bearer " + os.environ["TOKEN"]:
            return self.say(401, {"error": "who are you?"})
        message = json.loads(body)
        session = self.headers.get("mcp-session-id")
        if message.get("method") == "initialize":
            session = str(uuid.uuid4())
            self.sessions.add(session)
        elif session not in self.sessions:
            return self.say(404, {"error": "no such session"})
        said = answer(message, lambda _: None)
        return self.say(200, said, session) if said else self.say(202, None, session)

    def do_GET(self):
        self.say(405, None)

    def do_DELETE(self):
        self.say(200, None)

    def say(self, status, body, session=None):
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if session:
            self.send_header("mcp-session-id", session)
        if "--closing" in sys.argv:
            self.send_header("connection", "close")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    (FOLDER / "pid").write_text(str(os.getpid()))
    if sys.argv[1:2] == ["--http"]:
        server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
        (FOLDER / "port").write_text(str(server.server_port))
        server.serve_forever()
    else:
        stdio()
