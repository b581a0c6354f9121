"""The Codex CLI, with a server of its own that can be killed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess

import pytest
import requests
from conftest import TIMEOUT, UPSTREAM, until

# One turn of Codex takes some seconds; more is a defect.
TURN = 90
# Codex knows this model, and gives it a `custom` tool that edits files.
MODEL = "chat/gpt-5.5"
# And this one it gives its tools in an `additional_tools` item, in a namespace.
NAMESPACES = "chat/gpt-6.2-sol"

SERVER_CONFIG = """
[providers.openai]
base_url = "{upstream}/v1"
api_key = "upstream-key"
"""

CODEX_CONFIG = """
model_provider = "outlast"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.outlast]
name = "Outlast"
base_url = "{url}/v1"
wire_api = "responses"
supports_websockets = {websockets}
"""


class Server:
    """A server that keeps its address and its database when it is killed."""

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = "127.0.0.1:{}".format(free.getsockname()[1])
        self.url = f"http://{self.address}"
        self.config = folder / "outlast.toml"
        self.config.write_text(SERVER_CONFIG.format(upstream=UPSTREAM))
        self.start()

    def start(self):
        command = [os.environ["SERVER"], "serve", "--listen", self.address, "--config", str(self.config)]
        command += ["--database", str(self.folder / "outlast.db")]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        until("the server is ready", self.is_ready)

    def is_ready(self):
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/readyz", timeout=TIMEOUT).ok

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def websockets(self):
        """How many WebSockets it has opened."""
        metrics = requests.get(f"{self.url}/metrics", timeout=TIMEOUT).text
        opened = re.findall(r'^\S*requests_total\{(?=.*status="101").*\} (\d+)', metrics, re.MULTILINE)
        return sum(map(int, opened))


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.kill()


class Codex:
    """Codex in a workspace of its own."""

    def __init__(self, folder, server, websockets):
        self.home, self.workspace = folder / "codex", folder / "workspace"
        self.home.mkdir()
        self.workspace.mkdir()
        config = CODEX_CONFIG.format(url=server.url, websockets=str(websockets).lower())
        (self.home / "config.toml").write_text(config)

    def start(self, *arguments, model=MODEL):
        script = f"{os.environ['MODULES']}/@openai/codex/bin/codex.js"
        command = [os.environ["NODE"], script, "exec", "--skip-git-repo-check", "--json", "--model", model, *arguments]
        plain = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        env = plain | {"CODEX_HOME": str(self.home), "HOME": str(self.home)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.workspace, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def finish(self, process):
        """The items of the turn, when it has ended well."""
        try:
            out, err = process.communicate(timeout=TURN)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert process.returncode == 0 and events[-1]["type"] == "turn.completed", f"{out}\n{err}"
        return [event["item"] for event in events if event["type"] == "item.completed"]

    def turn(self, *arguments, model=MODEL):
        return self.finish(self.start(*arguments, model=model))


@pytest.fixture(params=["http", "websocket"])
def codex(request, tmp_path, server):
    websockets = request.param == "websocket"
    yield Codex(tmp_path, server, websockets)
    assert (server.websockets() > 0) == websockets


def said(items):
    return [item["text"] for item in items if item["type"] == "agent_message"]


def test_a_file_is_edited(codex):
    greeting = codex.workspace / "greeting.txt"
    greeting.write_text("Hello.\n")
    items = codex.turn("Please change the greeting.")
    assert greeting.read_text() == "Good morning.\n", items
    assert [item["type"] for item in items if item["type"] != "error"] == ["file_change", "agent_message"]
    assert said(items)[0].startswith("The tools say: ")


def test_a_tool_in_a_namespace_is_called(codex):
    items = codex.turn("Please run a script.", model=NAMESPACES)
    assert "42" in said(items)[0], items


def test_a_session_is_resumed(codex):
    codex.turn("I am Ada.")
    items = codex.turn("resume", "--last", "what have I said")
    assert "I am Ada." in said(items)[0]


def test_a_turn_survives_the_death_of_the_server(codex, server, upstream_calls, unique):
    question = f"Please take your time: {unique}"
    process = codex.start(question)
    until("the model is asked", lambda: upstream_calls(unique) or process.poll() is not None)
    server.kill()
    server.start()
    assert said(codex.finish(process)) == ["It is done."]
