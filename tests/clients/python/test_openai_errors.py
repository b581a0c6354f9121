"""The OpenAI SDK for Python: refusals, retries, and upstreams that fail."""

import json

import httpx2
import openai
import pytest
from openai import OpenAI

from conftest import KEY, TIMEOUT, URL, ended


def sent(**options):
    """A client that keeps its requests, and the list of them."""
    requests = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [requests.append]}, **options)
    return OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=TIMEOUT, http_client=http), requests


# --- refusals


@pytest.mark.parametrize("key", ["wrong", KEY.swapcase()])
def test_a_wrong_key(client, key):
    with pytest.raises(openai.AuthenticationError) as error:
        client.with_options(api_key=key).responses.create(model="echo", input="hello")
    assert error.value.code == "invalid_api_key"
    assert error.value.response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"metadata": {"order": 17}}, "metadata.order"),
        ({"extra_body": {"store": "false"}}, "store"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"truncation": "sometimes"}, "truncation"),
        ({"input": [{"role": "wizard", "content": "hello"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "call_id": "call_1", "output": "21"}]}, "input"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"model": openai.omit}, "model"),
        ({"input": openai.omit}, "input"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_says_what_is_wrong(client, wrong, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**{"model": "echo", "input": "hello"} | wrong)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error" and error.value.message
    assert error.value.request_id


def test_what_is_missing_has_a_code(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="echo")
    assert (error.value.code, error.value.param) == ("missing_required_parameter", "input")
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="echo", input="hello", previous_response_id="resp_unknown")
    assert error.value.code == "previous_response_not_found"


def test_what_cannot_be_together(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="echo", input="hello", background=True, store=False)
    assert error.value.code == "background_requires_store"


def test_what_is_not_there(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.create(model="nobody", input="hello")
    assert error.value.code == "model_not_found"
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call("resp_unknown")


def test_what_belongs_to_another_is_not_there(client, other_client):
    mine = client.responses.create(model="echo", input="hello")
    for call in (other_client.responses.retrieve, other_client.responses.cancel, other_client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(mine.id)
    with pytest.raises(openai.BadRequestError) as error:
        other_client.responses.create(model="echo", input="hello", previous_response_id=mine.id)
    assert error.value.code == "previous_response_not_found"
    assert client.responses.retrieve(mine.id) == mine


def test_a_parent_that_has_not_ended(client):
    parent = client.responses.create(
        model="echo", input="one two", metadata={"delay_ms": "10000"}, background=True
    )
    with pytest.raises(openai.ConflictError) as error:
        client.responses.create(model="echo", input="hello", previous_response_id=parent.id)
    assert error.value.code == "previous_response_not_completed"
    client.responses.cancel(parent.id)


def test_a_wrong_cursor(client):
    response = client.responses.create(model="echo", input="hello")
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.retrieve(response.id, stream=True, starting_after="soon")
    assert error.value.param == "starting_after"
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.input_items.list(response.id, after="msg_unknown")
    assert error.value.param == "after"


# --- retries


def test_a_key_names_one_run(client, unique, upstream_calls):
    body = {"model": "chat/gpt-4o", "input": unique, "extra_headers": {"Idempotency-Key": unique}}
    first = client.responses.with_raw_response.create(**body)
    again = client.responses.with_raw_response.create(**body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.parse() == first.parse()
    assert len(upstream_calls(unique)) == 1


def test_a_key_with_another_request_is_refused_once(unique):
    client, requests = sent()
    headers = {"Idempotency-Key": unique}
    first = client.responses.create(model="echo", input="hello", extra_headers=headers)
    with pytest.raises(openai.ConflictError) as error:
        client.responses.create(model="echo", input="goodbye", extra_headers=headers)
    assert error.value.code == "idempotency_key_conflict"
    assert error.value.response.headers["x-should-retry"] == "false"
    assert len(requests) == 2, "the SDK has not repeated it"
    assert client.responses.retrieve(first.id) == first


def test_a_key_needs_store(client, unique):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="echo", input="hello", store=False, extra_headers={"Idempotency-Key": unique})
    assert error.value.code == "idempotency_requires_store"


def test_a_key_is_visible_ascii(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="echo", input="hello", extra_headers={"Idempotency-Key": "a b"})
    assert error.value.code == "invalid_idempotency_key"


class LosesTheFirstAnswer(httpx2.HTTPTransport):
    """A network that takes the first request to the server and loses the answer."""

    lost = False

    def handle_request(self, request):
        response = super().handle_request(request)
        if self.lost:
            return response
        self.lost = True
        response.read()
        response.close()
        raise httpx2.ReadError("the connection was reset", request=request)


def test_the_sdk_repeats_what_a_network_lost(unique, upstream_calls):
    client, requests = sent(transport=LosesTheFirstAnswer())
    response = client.responses.create(
        model="chat/gpt-4o", input=unique, extra_headers={"Idempotency-Key": unique}
    )
    assert response.status == "completed"
    assert [request.headers["idempotency-key"] for request in requests] == [unique, unique]
    assert len(upstream_calls(unique)) == 1, "no agent has run twice"


def test_a_repeated_stream_begins_with_what_there_is(unique):
    client, _ = sent()
    words = " ".join(f"word{number}" for number in range(40))
    body = {"model": "echo", "input": words, "metadata": {"delay_ms": "10"}, "stream": True}
    stream = client.responses.create(**body, extra_headers={"Idempotency-Key": unique})
    seen = [next(stream) for _ in range(10)]
    stream.close()
    snapshot, *rest = client.responses.create(**body, extra_headers={"Idempotency-Key": unique})
    assert snapshot.type == "response.snapshot" and snapshot.response["id"] == seen[0].response.id
    assert snapshot.sequence_number >= seen[-1].sequence_number
    assert [event.sequence_number for event in rest] == list(
        range(snapshot.sequence_number + 1, snapshot.sequence_number + 1 + len(rest))
    )
    before = snapshot.response["output"][0]["content"][0]["text"]
    assert before + "".join(event.delta for event in rest if event.type == "response.output_text.delta") == words
    assert rest[-1].type == "response.completed"


def test_a_repeated_stream_of_what_has_ended_is_the_same(client, unique):
    body = {"model": "echo", "input": "one two", "stream": True, "extra_headers": {"Idempotency-Key": unique}}
    assert list(client.responses.create(**body)) == list(client.responses.create(**body))


# --- upstreams that fail


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize(
    ("text", "status", "code", "message", "calls"),
    [
        pytest.param("an overloaded model", 502, "server_error", "not available (503)", 4, id="overloaded"),
        pytest.param("a limited model", 429, "rate_limit_exceeded", "asks to slow down", 4, id="limited"),
        pytest.param("a model for tomorrow", 429, "rate_limit_exceeded", "86400s", 1, id="limited for long"),
        pytest.param("a rejected call", 502, "server_error", "does not accept this request", 1, id="rejects"),
        pytest.param("a cut answer", 502, "server_error", "broke off", 1, id="cut"),
        pytest.param("a silent model", 504, "server_error", "first_token_timeout", 1, id="silent"),
        pytest.param("a stalled answer", 504, "server_error", "idle_timeout", 1, id="stalled"),
    ],
)
def test_an_upstream_fails(client, unique, upstream_calls, text, status, code, message, calls, stream):
    model = "chat/impatient/gpt-4o" if "timeout" in message else "chat/gpt-4o"
    body = {"model": model, "input": f"{text} {unique}"}
    if stream:
        events = client.responses.create(**body, stream=True)
        created = next(events)
        with pytest.raises(openai.APIError) as error:
            list(events)
        response = client.responses.retrieve(created.response.id)
    else:
        with pytest.raises(openai.APIStatusError) as error:
            client.with_options(max_retries=0).responses.create(**body)
        assert error.value.status_code == status
        response = client.responses.retrieve(error.value.body["response_id"])
    assert error.value.code == code
    assert (response.status, response.error.code) == ("failed", code)
    assert message in error.value.message and message in response.error.message
    assert response.completed_at is None
    assert all(item.status == "incomplete" for item in response.output)
    assert len(upstream_calls(unique)) == calls


def test_a_failed_run_is_not_repeated_by_the_sdk(client, unique, upstream_calls):
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="chat/gpt-4o", input=f"a rejected call {unique}")
    assert len(upstream_calls(unique)) == 1


def test_what_was_said_before_the_cut_is_kept(client):
    events = []
    with client.responses.stream(model="chat/gpt-4o", input="a cut answer") as stream:
        with pytest.raises(openai.APIError):
            for event in stream:
                events.append(event)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    response = client.responses.retrieve(events[0].response.id)
    assert response.status == "failed"
    assert text and "This answer is cut in the middle of it all.".startswith(text)
    assert response.output_text == text == client.responses.retrieve(response.id).output_text


def test_a_slow_upstream_is_waited_for(client):
    response = client.responses.create(model="chat/gpt-4o", input="a slow answer")
    assert (response.status, response.output_text) == ("completed", "Slow, but whole.")


@pytest.mark.parametrize(
    ("text", "reason"), [("a long answer", "max_output_tokens"), ("a filtered answer", "content_filter")]
)
def test_an_answer_is_incomplete(client, text, reason):
    *_, last = client.responses.create(model="chat/gpt-4o", input=text, stream=True)
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == reason
    assert last.response.output_text.startswith("This answer is")


def test_a_failed_background_response(client):
    response = client.responses.create(model="chat/gpt-4o", input="an overloaded model", background=True)
    response = ended(client, response.id)
    assert (response.status, response.error.code) == ("failed", "server_error")


def test_every_refusal_has_the_same_form(client):
    for method, path in (("GET", "/nowhere"), ("PUT", "/responses"), ("POST", "/responses")):
        with pytest.raises(openai.APIStatusError) as error:
            client.with_options(max_retries=0).request(
                openai.BaseModel, openai._models.FinalRequestOptions(method=method, url=path)
            )
        assert set(json.loads(error.value.response.text)["error"]) == {"message", "type", "param", "code"}
