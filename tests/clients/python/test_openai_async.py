"""The asynchronous client of the OpenAI SDK for Python."""

import anyio
import pytest

pytestmark = pytest.mark.anyio


async def test_create_and_retrieve(async_client):
    response = await async_client.responses.create(model="chat/gpt-4o", input="hello")
    assert await async_client.responses.retrieve(response.id) == response


async def test_stream(async_client):
    stream = await async_client.responses.create(model="chat/gpt-4o", input="hello", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == "Every run outlives its client."


async def test_stream_helper(async_client):
    async with async_client.responses.stream(model="chat/gpt-4o", input="hello") as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        assert text == (await stream.get_final_response()).output_text


async def test_many_readers_see_the_same(async_client):
    response = await async_client.responses.create(
        model="echo", input="one two three four five", metadata={"delay_ms": "50"}, background=True
    )
    seen = {}

    async def read(reader):
        stream = await async_client.responses.retrieve(response.id, stream=True)
        seen[reader] = [event async for event in stream]

    async with anyio.create_task_group() as group:
        for reader in range(10):
            group.start_soon(read, reader)
    assert seen[0][-1].type == "response.completed"
    assert all(events == seen[0] for events in seen.values())


async def test_twenty_first_uses_of_a_key_make_one_run(async_client, unique, upstream_calls):
    ids = set()

    async def create():
        response = await async_client.responses.create(
            model="chat/gpt-4o", input=unique, extra_headers={"Idempotency-Key": unique}
        )
        ids.add(response.id)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(create)
    assert len(ids) == 1
    assert len(upstream_calls(unique)) == 1


async def test_pages(async_client):
    messages = [{"role": "user", "content": f"message {number}"} for number in range(30)]
    response = await async_client.responses.create(model="echo", input=messages)
    items = async_client.responses.input_items.list(response.id, order="asc", limit=7)
    assert [item.content[0].text async for item in items] == [message["content"] for message in messages]


async def test_cancel_what_a_stream_shows(async_client):
    stream = await async_client.responses.create(
        model="echo", input="one two", metadata={"delay_ms": "10000"}, stream=True
    )
    events = []
    async for event in stream:
        if not events:
            await async_client.responses.cancel(event.response.id)
        events.append(event)
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")
