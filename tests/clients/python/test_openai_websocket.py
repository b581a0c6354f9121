"""The OpenAI SDK for Python over a WebSocket."""

import pytest


def turn(connection, **options):
    """One response: its events up to the last one."""
    connection.response.create(**{"model": "chat/gpt-4o", "input": "hello"} | options)
    events = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.failed", "response.incomplete", "error"):
            return events
    pytest.fail(f"the connection was closed after {[event.type for event in events]}")


@pytest.fixture
def connection(client):
    with client.responses.connect() as connection:
        yield connection


def test_one_turn(client, connection):
    events = turn(connection)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    response = events[-1].response
    assert response.output_text == "Every run outlives its client."
    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_turns_over_one_connection(connection):
    first = turn(connection, input="I am Ada.")[-1].response
    second = turn(connection, input="what have I said", previous_response_id=first.id)[-1].response
    assert second.output_text == "I am Ada."


def test_a_turn_that_is_not_stored_goes_on_here(connection):
    first = turn(connection, input="I am Ada.", store=False)[-1].response
    second = turn(connection, input="what have I said", previous_response_id=first.id, store=False)[-1].response
    assert second.output_text == "I am Ada."


def test_an_error_does_not_end_the_connection(connection):
    [error] = turn(connection, model="nobody")
    assert error.type == "error" and error.error.code == "model_not_found"
    [error] = turn(connection, previous_response_id="resp_unknown")
    assert error.error.code == "previous_response_not_found"
    assert turn(connection)[-1].type == "response.completed"


def test_tools(connection):
    tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}]
    first = turn(connection, input="weather in Bonn", tools=tools)[-1].response
    output = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "21"}
    second = turn(connection, input=[output], previous_response_id=first.id, tools=tools)[-1].response
    assert second.output_text == "The tools say: 21."
