"""What the compliance suite of Open Responses verifies, by the names that it gives its tests.

Every response and every event is checked against the specification's schemas, where they are there (see `run`).
"""

import json
import os
from pathlib import Path

import jsonschema
import pytest
import requests
import websockets.sync.client

from conftest import IMAGE, KEY, TIMEOUT, URL

MODEL = "chat/gpt-4o"
HEADERS = {"Authorization": f"Bearer {KEY}"}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


# --- the schemas


PATH = Path(os.environ["OPENRESPONSES"])
SPECIFICATION = json.loads(PATH.read_text()) if PATH.exists() else None
SCHEMAS = SPECIFICATION["components"]["schemas"] if SPECIFICATION else {}
EVENTS = {
    schema["properties"]["type"]["enum"][0]: name
    for name, schema in SCHEMAS.items()
    if name.endswith("StreamingEvent")
}


def conform(name, value):
    if not SPECIFICATION:
        return
    schema = {"$ref": f"#/components/schemas/{name}", "components": SPECIFICATION["components"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    wrong = [f"{error.json_path}: {error.message}" for error in errors]
    assert not wrong, f"not a {name}: {wrong}\n{json.dumps(value, indent=1)}"


def conform_event(event):
    if SPECIFICATION:
        assert event["type"] in EVENTS, f"Open Responses has no event {event['type']}"
        conform(EVENTS[event["type"]], event)


# --- HTTP


def message(role, content, **more):
    return {"type": "message", "role": role, "content": content, **more}


def post(path, **body):
    return requests.post(f"{URL}/v1{path}", json=body, headers=HEADERS, timeout=TIMEOUT)


def create(**body):
    answer = post("/responses", model=MODEL, **body)
    assert answer.status_code == 200, answer.text
    response = answer.json()
    conform("ResponseResource", response)
    assert response["status"] == "completed" and response["output"]
    return response


def stream(**body):
    """The events of a stream, every one of which conforms, and its last response."""
    answer = post("/responses", model=MODEL, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    events = []
    for frame in frames:
        kind, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
        conform_event(events[-1])
    response = events[-1]["response"]
    conform("ResponseResource", response)
    assert response["status"] == "completed" and response["output"]
    return events, response


def test_basic_response():
    create(input=[message("user", "Say hello in exactly 3 words.")])


def test_assistant_phase():
    create(
        input=[
            message("assistant", "I should answer with the saved number.", phase="commentary"),
            message("assistant", "The number is four.", phase="final_answer"),
            message("user", "Repeat only the number."),
        ]
    )


def test_response_output_phase_schema():
    # A model may label its messages; a response that holds such labels conforms.
    response = create(input="hello")
    phases = ("commentary", "final_answer")
    response["output"] = [item | {"phase": phase} for item in response["output"] for phase in phases]
    conform("ResponseResource", response)


def test_streaming_response():
    events, _ = stream(input=[message("user", "Count from 1 to 5.")])
    assert "response.output_text.delta" in [event["type"] for event in events]


def test_system_prompt():
    create(input=[message("system", "You are a pirate."), message("user", "Say hello.")])


def test_tool_calling():
    response = create(input=[message("user", "What's the weather in Bonn?")], tools=[TOOL])
    assert "function_call" in [item["type"] for item in response["output"]]


def test_tool_calling_streaming():
    events, response = stream(input=[message("user", "What's the weather in Bonn?")], tools=[TOOL])
    assert "function_call" in [item["type"] for item in response["output"]]
    types = [event["type"] for event in events]
    assert "response.function_call_arguments.delta" in types
    assert "response.function_call_arguments.done" in types
    of_items = [(event["type"], event["item"]["type"]) for event in events if "item" in event]
    assert ("response.output_item.added", "function_call") in of_items
    assert ("response.output_item.done", "function_call") in of_items


def test_image_input():
    parts = [{"type": "input_text", "text": "What do you see?"}, {"type": "input_image", "image_url": IMAGE}]
    create(input=[message("user", parts)])


def test_multi_turn():
    create(
        input=[
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice! Nice to meet you."),
            message("user", "What is my name?"),
        ]
    )


def compact(**body):
    answer = post("/responses/compact", model=MODEL, **body)
    assert answer.status_code == 200, answer.text
    compaction = answer.json()
    conform("CompactResource", compaction)
    assert compaction["object"] == "response.compaction"
    assert "compaction" in [item["type"] for item in compaction["output"]]
    return compaction


def test_compact_response():
    compact(
        prompt_cache_key="openresponses",
        input=[message("user", "We launch on Tuesday."), message("assistant", "Understood.")],
    )


def test_compact_missing_model():
    answer = post("/responses/compact", input=[message("user", "Compact this conversation.")])
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"] == "model"


# --- WebSocket


class Socket:
    """A connection, with a turn for every `response.create`."""

    def __init__(self):
        address = f"{URL.replace('http', 'ws', 1)}/v1/responses"
        self.socket = websockets.sync.client.connect(address, additional_headers=HEADERS, open_timeout=TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def turn(self, **body):
        """What ends the turn: the last response, or the code of the error."""
        self.socket.send(json.dumps({"type": "response.create", "model": MODEL, **body}))
        while True:
            event = json.loads(self.socket.recv(TIMEOUT))
            if event["type"] == "error":
                return event["error"]["code"]
            conform_event(event)
            if event["type"] in ("response.completed", "response.failed", "response.incomplete"):
                conform("ResponseResource", event["response"])
                return event["response"]

    def completed(self, **body):
        response = self.turn(**body)
        assert isinstance(response, dict), f"the turn ended with {response}"
        assert response["status"] == "completed" and response["output"]
        return response


@pytest.fixture
def socket():
    with Socket() as socket:
        yield socket


def test_websocket_response(socket):
    socket.completed(input=[message("user", "Count from 1 to 3.")])


def test_websocket_sequential_responses(socket):
    first = socket.completed(input="Reply with exactly: first", store=False)
    second = socket.completed(input="Reply with exactly: second", store=False)
    assert first["id"] != second["id"]


def test_websocket_continuation(socket):
    first = socket.completed(input="The code word is cobalt.", store=False)
    second = socket.completed(input="what have I said", store=False, previous_response_id=first["id"])
    assert second["output"][0]["content"][0]["text"] == "The code word is cobalt."


def test_websocket_reconnect_store_false_recovery(socket):
    first = socket.completed(input="The code word is copper.", store=False)
    with Socket() as other:
        error = other.turn(input="Go on.", store=False, previous_response_id=first["id"])
        assert error == "previous_response_not_found"
        other.completed(input=[message("user", "Start again.")], store=False)


def test_websocket_previous_response_not_found(socket):
    error = socket.turn(input="Go on.", store=False, previous_response_id="resp_openresponses_missing")
    assert error == "previous_response_not_found"


def test_websocket_failed_continuation_evicts_cache(socket):
    first = socket.completed(input="The code word is ember.", store=False)
    output = {"type": "function_call_output", "call_id": "call_missing", "output": "Nobody has called."}
    failed = socket.turn(input=[output], store=False, previous_response_id=first["id"])
    assert isinstance(failed, str) or failed["status"] == "failed"
    stale = socket.turn(input="Go on.", store=False, previous_response_id=first["id"])
    assert stale == "previous_response_not_found"


def test_websocket_compact_new_chain(socket):
    compaction = compact(
        input=[
            message("user", [{"type": "input_text", "text": "The code word is slate."}]),
            message("assistant", [{"type": "output_text", "text": "OK."}]),
            message("user", [{"type": "input_text", "text": "Compress this conversation."}]),
        ]
    )
    window = [*compaction["output"], message("user", "Continue from here.")]
    socket.completed(input=window, store=False, tools=[])
