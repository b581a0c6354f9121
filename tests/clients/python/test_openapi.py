"""The server against its own description, `GET /openapi.json`: Schemathesis makes requests from it, right and wrong
ones. Every answer must have a status, a type and a schema that the description names, and what the description does
not allow must be refused."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openai import OpenAI
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import KEY, TIMEOUT, URL

CHECKS = [
    not_a_server_error,
    negative_data_rejection,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

description = schemathesis.openapi.from_url(f"{URL}/openapi.json", timeout=TIMEOUT)
every_operation = pytest.mark.parametrize(
    "operation", [found.ok() for found in description.get_all_operations()], ids=lambda operation: operation.label
)

# The same requests every time: a suite that decides must not change its mind.
bounded = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def client():
    with OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=TIMEOUT) as client:
        yield client


def send(case):
    case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS, timeout=TIMEOUT)


def aim(client, case):
    """Lets a request name what is there, and start an agent that is there."""
    segments = case.path.strip("/").split("/")
    last = {}
    for kind, parameter in zip(segments, segments[1:]):
        if not parameter.startswith("{"):
            continue
        if kind in ("responses", "runs"):
            there = client.responses.create(model="echo", input="hello").id
        elif kind == "conversations":
            item = {"type": "message", "role": "user", "content": "hello"}
            there = client.conversations.create(items=[item]).id
        elif kind == "items":
            there = client.conversations.items.list(last["conversations"]).data[0].id
        elif kind == "models":
            there = "echo"
        elif "webhook" in case.path:
            # Those that are there are asked by test_openai_webhooks.py, which has somebody who answers them.
            there = case.path_parameters[parameter.strip("{}")]
        else:
            raise AssertionError(f"{case.path}: what is {parameter}?")
        last[kind] = case.path_parameters[parameter.strip("{}*")] = there
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "echo"
        # Nobody waits for a background run here, and nobody needs the words late.
        case.body.pop("metadata", None)


def send_all(cases, prepare=lambda case: None):
    @bounded
    @given(case=cases)
    def send_one(case):
        prepare(case)
        send(case)

    send_one()


@every_operation
def test_right_requests(operation):
    send_all(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))


@every_operation
def test_wrong_requests(operation):
    # Where every request is right, there is none to make.
    with contextlib.suppress(Unsatisfiable):
        send_all(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


@every_operation
def test_requests_for_what_is_there(operation, client):
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    send_all(cases, lambda case: aim(client, case))
