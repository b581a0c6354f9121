"""The OpenAI SDK for Python: the life of a response."""

import json

import openai
import pytest

from conftest import ended

# Long enough that a run is still active whatever a check does meanwhile.
NEVER = {"delay_ms": "10000"}


def test_create(client):
    response = client.responses.create(model="chat/gpt-4o", input="hello")
    assert (response.object, response.status, response.model) == ("response", "completed", "chat/gpt-4o")
    assert response.output_text == "Every run outlives its client."
    assert response.error is None and response.incomplete_details is None
    assert response.usage.input_tokens > 0 and response.usage.output_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_create_says_back_what_was_asked(client):
    response = client.responses.create(
        model="echo",
        input=[{"role": "user", "content": "hello"}],
        instructions="Be brief.",
        metadata={"order": "17"},
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=100,
        parallel_tool_calls=False,
        user="ada",
    )
    assert (response.instructions, response.metadata) == ("Be brief.", {"order": "17"})
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 100)
    assert (response.parallel_tool_calls, response.user) == (False, "ada")


def test_instructions_and_roles_reach_the_model(client):
    response = client.responses.create(
        model="chat/gpt-4o",
        instructions="You are a parrot.",
        input=[{"role": "developer", "content": "Be loud."}, {"role": "user", "content": "who are you"}],
    )
    assert "You are a parrot." in response.output_text and "Be loud." in response.output_text


def test_stream(client):
    events = list(client.responses.create(model="chat/gpt-4o", input="hello", stream=True))
    types = [event.type for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert types[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(types[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events[4:-4])
    assert deltas == events[-1].response.output_text == "Every run outlives its client."


def test_stream_helper(client):
    with client.responses.stream(model="chat/gpt-4o", input="hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert text == response.output_text == "Every run outlives its client."
    assert response.status == "completed" and response.usage.total_tokens > 0


def test_retrieve(client):
    created = client.responses.create(model="chat/gpt-4o", input="hello")
    assert client.responses.retrieve(created.id) == created
    assert client.responses.retrieve(created.id, include=["message.output_text.logprobs"]) == created


def test_retrieve_streams_every_event_again(client):
    events = list(client.responses.create(model="chat/gpt-4o", input="hello", stream=True))
    response = events[-1].response
    assert list(client.responses.retrieve(response.id, stream=True)) == events
    assert list(client.responses.retrieve(response.id, stream=True, starting_after=3)) == events[4:]
    assert list(client.responses.retrieve(response.id, stream=True, starting_after=len(events) - 1)) == []


def test_a_client_comes_back_with_the_last_number(client):
    words = " ".join(f"word{n}" for n in range(40))
    stream = client.responses.create(model="echo", input=words, metadata={"delay_ms": "5"}, stream=True)
    seen = [next(stream) for _ in range(10)]
    stream.close()
    response_id, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert [event.sequence_number for event in seen + rest] == list(range(len(seen) + len(rest)))
    assert "".join(event.delta for event in seen + rest if event.type == "response.output_text.delta") == words
    assert rest[-1].type == "response.completed"


def test_the_stream_helper_comes_back(client):
    with client.responses.stream(model="echo", input="one two three", background=True) as stream:
        created = next(iter(stream))
    with client.responses.stream(response_id=created.response.id) as stream:
        assert stream.get_final_response().output_text == "one two three"
    with client.responses.stream(response_id=created.response.id, starting_after=4) as stream:
        assert next(iter(stream)).sequence_number == 5
        assert stream.get_final_response().output_text == "one two three"


def test_background(client):
    response = client.responses.create(
        model="echo", input="one two three", metadata={"delay_ms": "20"}, background=True
    )
    assert response.status in ("queued", "in_progress") and response.background is True
    response = ended(client, response.id)
    assert (response.status, response.output_text) == ("completed", "one two three")


def test_a_streamed_background_response_begins_queued(client):
    events = list(client.responses.create(model="echo", input="one two", background=True, stream=True))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[0].response.status == "queued"
    assert events[-1].type == "response.completed"


def test_cancel(client):
    response = client.responses.create(model="echo", input="one two three", metadata=NEVER, background=True)
    cancelled = client.responses.cancel(response.id)
    assert (cancelled.id, cancelled.status) == (response.id, "cancelled")
    assert client.responses.cancel(response.id) == cancelled
    assert client.responses.retrieve(response.id) == cancelled


def test_a_reader_sees_that_its_run_was_cancelled(client):
    stream = client.responses.create(model="echo", input="one two three", metadata=NEVER, stream=True)
    first = next(stream)
    client.responses.cancel(first.response.id)
    last = list(stream)[-1]
    assert (last.type, last.response.status) == ("response.failed", "cancelled")


def test_what_has_ended_cannot_be_cancelled(client):
    response = client.responses.create(model="echo", input="hello")
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.cancel(response.id)
    assert "completed" in error.value.message


def test_delete(client):
    response = client.responses.create(model="echo", input="hello")
    assert client.responses.delete(response.id) is None
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(response.id)


def test_delete_answers_what_it_has_deleted(client):
    response = client.responses.create(model="echo", input="hello")
    answer = client.responses.with_raw_response.delete(response.id)
    assert json.loads(answer.text) == {"id": response.id, "object": "response.deleted", "deleted": True}


def test_what_is_not_stored_cannot_be_found(client):
    response = client.responses.create(model="chat/gpt-4o", input="hello", store=False)
    assert (response.status, response.store) == ("completed", False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_input_items_come_in_pages(client):
    messages = [{"role": "user", "content": f"message {number}"} for number in range(45)]
    response = client.responses.create(model="echo", input=messages)

    def texts(**options):
        return [item.content[0].text for item in client.responses.input_items.list(response.id, **options)]

    forwards = [message["content"] for message in messages]
    assert texts(order="asc", limit=10) == forwards
    assert texts(order="asc", limit=100) == forwards
    assert texts() == forwards[::-1]
    first = client.responses.input_items.list(response.id, order="asc", limit=10)
    assert len(first.data) == 10 and first.has_more
    assert texts(order="asc", after=first.last_id) == forwards[10:]


def test_a_response_goes_on_from_another(client):
    first = client.responses.create(model="chat/gpt-4o", input="I am Ada.", instructions="Be a parrot.")
    second = client.responses.create(model="chat/gpt-4o", input="I like tea.", previous_response_id=first.id)
    third = client.responses.create(model="chat/gpt-4o", input="what have I said", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    assert third.output_text == "I am Ada. | I like tea."
    fork = client.responses.create(model="chat/gpt-4o", input="what have I said", previous_response_id=first.id)
    assert fork.output_text == "I am Ada."
    # Instructions belong to one response.
    fresh = client.responses.create(model="chat/gpt-4o", input="who are you", previous_response_id=first.id)
    assert fresh.output_text == "Nobody."


def test_an_item_is_named_instead_of_sent(client):
    first = client.responses.create(model="chat/gpt-4o", input="hello")
    reference = {"type": "item_reference", "id": first.output[0].id}
    response = client.responses.create(
        model="chat/gpt-4o",
        input=[{"role": "user", "content": "I am Ada."}, reference, {"role": "user", "content": "what have I said"}],
    )
    assert response.output_text == "I am Ada."


def test_input_tokens_are_counted(client):
    short = client.responses.input_tokens.count(model="chat/gpt-4o", input="hello")
    long = client.responses.input_tokens.count(model="chat/gpt-4o", input="hello " * 100, instructions="Be brief.")
    assert short.object == "response.input_tokens"
    assert 0 < short.input_tokens < long.input_tokens


# The messages of a user are part of a compacted window; the types of the SDK know only those of an assistant there.
def test_compact(lenient_client):
    client = lenient_client
    compaction = client.responses.compact(
        model="chat/gpt-4o",
        input=[{"role": "user", "content": "We launch on Tuesday."}, {"role": "assistant", "content": "Noted."}],
    )
    assert compaction.object == "response.compaction" and compaction.usage is not None
    assert "compaction" in [item.type for item in compaction.output]
    window = [item.model_dump(exclude_unset=True, warnings=False) for item in compaction.output]
    response = client.responses.create(
        model="chat/gpt-4o", input=[*window, {"role": "user", "content": "hello"}]
    )
    assert response.status == "completed"


def test_compact_a_stored_response(lenient_client):
    client = lenient_client
    first = client.responses.create(model="chat/gpt-4o", input="We launch on Tuesday.")
    compaction = client.responses.compact(model="chat/gpt-4o", previous_response_id=first.id)
    assert "compaction" in [item.type for item in compaction.output]


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert {"echo", "chat"} <= set(names)
    assert client.models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("nobody")
    assert error.value.code == "model_not_found"
