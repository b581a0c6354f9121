"""The OpenAI SDK for Python: conversations."""

import openai
import pytest


def text(item):
    return item.content[0].text


@pytest.fixture
def conversation(client):
    return client.conversations.create()


def say(client, conversation, text, **options):
    return client.responses.create(model="chat/gpt-4o", conversation=conversation, input=text, **options)


def test_create_retrieve_update_delete(client):
    conversation = client.conversations.create(
        metadata={"topic": "tea"}, items=[{"type": "message", "role": "user", "content": "hello"}]
    )
    assert (conversation.object, conversation.metadata) == ("conversation", {"topic": "tea"})
    assert conversation.id.startswith("conv_")
    assert client.conversations.retrieve(conversation.id) == conversation
    updated = client.conversations.update(conversation.id, metadata={"topic": "coffee"})
    assert (updated.id, updated.metadata) == (conversation.id, {"topic": "coffee"})
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "coffee"}
    deleted = client.conversations.delete(conversation.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (conversation.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_items(client, conversation):
    items = client.conversations.items
    added = items.create(
        conversation.id,
        items=[
            {"type": "message", "role": "user", "content": "hello"},
            {"type": "message", "role": "assistant", "content": "Hello Ada."},
        ],
    )
    assert [item.role for item in added.data] == ["user", "assistant"]
    first = added.data[0]
    assert text(first) == "hello"
    assert items.retrieve(first.id, conversation_id=conversation.id) == first
    assert items.delete(first.id, conversation_id=conversation.id).id == conversation.id
    with pytest.raises(openai.NotFoundError):
        items.retrieve(first.id, conversation_id=conversation.id)
    assert [item.id for item in items.list(conversation.id)] == [added.data[1].id]


def test_items_come_in_pages(client, conversation):
    texts = [f"message {number}" for number in range(45)]
    for start in range(0, 45, 15):
        messages = [{"type": "message", "role": "user", "content": part} for part in texts[start : start + 15]]
        client.conversations.items.create(conversation.id, items=messages)
    pages = client.conversations.items.list(conversation.id, order="asc", limit=10)
    assert len(pages.data) == 10 and pages.has_more
    assert [text(item) for item in pages] == texts
    assert [text(item) for item in client.conversations.items.list(conversation.id)] == texts[::-1]


def test_a_conversation_remembers(client, conversation):
    first = say(client, conversation.id, "I am Ada.")
    assert first.conversation.id == conversation.id
    say(client, {"id": conversation.id}, "I like tea.")
    assert say(client, conversation.id, "what have I said").output_text == "I am Ada. | I like tea."
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"] * 3
    assert items[1].id == first.output[0].id
    assert client.responses.retrieve(first.id).conversation.id == conversation.id


def test_a_conversation_begins_with_its_items(client):
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "I am Ada."}]
    )
    assert say(client, conversation.id, "what have I said").output_text == "I am Ada."


def test_a_name_is_a_conversation_of_its_caller(client, other_client, unique):
    say(client, unique, "I am Ada.")
    assert say(client, unique, "what have I said").output_text == "I am Ada."
    assert say(other_client, unique, "what have I said").output_text == "Nothing."


def test_a_conversation_is_streamed_into(client, conversation):
    with client.responses.stream(model="chat/gpt-4o", conversation=conversation.id, input="I am Ada.") as stream:
        assert stream.get_final_response().conversation.id == conversation.id
    assert say(client, conversation.id, "what have I said").output_text == "I am Ada."


def test_tools_in_a_conversation(client, conversation):
    tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}]
    [call] = say(client, conversation.id, "weather in Bonn", tools=tools).output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
    answer = say(client, conversation.id, [output], tools=tools)
    assert answer.output_text == "The tools say: 21."
    types = [item.type for item in client.conversations.items.list(conversation.id, order="asc")]
    assert types == ["message", "function_call", "function_call_output", "message"]


def test_one_response_at_a_time(client, conversation):
    active = client.responses.create(
        model="echo", conversation=conversation.id, input="one two", metadata={"delay_ms": "10000"}, background=True
    )
    with pytest.raises(openai.ConflictError) as error:
        say(client, conversation.id, "hello")
    assert error.value.code == "conversation_response_not_completed"
    assert error.value.body["response_id"] == active.id
    assert error.value.response.headers["x-should-retry"] == "false"
    client.responses.cancel(active.id)
    # What was cancelled has left nothing behind.
    assert say(client, conversation.id, "what have I said").output_text == "Nothing."


def test_what_fails_is_not_remembered(client, conversation):
    say(client, conversation.id, "I am Ada.")
    with pytest.raises(openai.InternalServerError):
        say(client, conversation.id, "an overloaded model")
    assert say(client, conversation.id, "what have I said").output_text == "I am Ada."


def test_what_is_not_stored_reads_but_does_not_write(client, conversation):
    say(client, conversation.id, "I am Ada.")
    for _ in range(2):
        response = say(client, conversation.id, "what have I said", store=False)
        assert response.output_text == "I am Ada."
    assert len(list(client.conversations.items.list(conversation.id))) == 2


def test_responses_survive_their_conversation(client, conversation):
    response = say(client, conversation.id, "hello")
    client.conversations.delete(conversation.id)
    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_a_conversation_or_a_previous_response(client, conversation):
    first = say(client, conversation.id, "hello")
    with pytest.raises(openai.BadRequestError):
        say(client, conversation.id, "hello", previous_response_id=first.id)


def test_what_is_not_there(client, other_client, conversation):
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve("conv_unknown")
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list("conv_unknown")
    with pytest.raises(openai.NotFoundError):
        other_client.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        say(client, "conv_unknown", "hello")
