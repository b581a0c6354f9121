"""The OpenAI Agents SDK for Python."""

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

pytestmark = pytest.mark.anyio
set_tracing_disabled(True)


@function_tool
def get_weather(city: str, unit: str) -> str:
    """Tells the weather."""
    return f"{city} 21"


class Weather(BaseModel):
    city: str
    celsius: int


@pytest.fixture
def agent(async_client):
    def new(**options):
        return Agent(name="Ada's agent", model=OpenAIResponsesModel("chat/gpt-4o", async_client), **options)

    return new


async def test_a_tool_loop(agent):
    result = await Runner.run(agent(tools=[get_weather], instructions="Be brief."), "weather in Bonn and Kiel")
    assert result.final_output == "The tools say: Bonn 21 and Kiel 21."
    assert [item.type for item in result.new_items] == [
        "tool_call_item",
        "tool_call_item",
        "tool_call_output_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    assert result.context_wrapper.usage.total_tokens > 0


async def test_a_tool_loop_is_streamed(agent):
    result = Runner.run_streamed(agent(tools=[get_weather]), "weather in Kiel")
    events = [event async for event in result.stream_events()]
    assert result.final_output == "The tools say: Kiel 21."
    raw = [event.data.type for event in events if event.type == "raw_response_event"]
    assert raw.count("response.completed") == 2
    assert "response.function_call_arguments.delta" in raw
    names = [event.name for event in events if event.type == "run_item_stream_event"]
    assert names == ["tool_called", "tool_output", "message_output_created"]


async def test_a_loop_over_previous_responses(agent):
    result = await Runner.run(
        agent(tools=[get_weather]), "weather in Bonn", auto_previous_response_id=True
    )
    assert result.final_output == "The tools say: Bonn 21."
    again = await Runner.run(agent(), "what have I said", previous_response_id=result.last_response_id)
    assert again.final_output == "weather in Bonn"


async def test_a_session_is_a_conversation(agent, async_client):
    session = OpenAIConversationsSession(openai_client=async_client)
    await Runner.run(agent(), "I am Ada.", session=session)
    await Runner.run(agent(tools=[get_weather]), "weather in Bonn", session=session)
    streamed = Runner.run_streamed(agent(), "what have I said", session=session)
    assert [event async for event in streamed.stream_events()]
    assert streamed.final_output == "I am Ada. | weather in Bonn"
    items = await session.get_items()
    assert [item.get("role") or item["type"] for item in items] == [
        *("user", "assistant"),
        *("user", "function_call", "function_call_output", "assistant"),
        *("user", "assistant"),
    ]
    last = await session.pop_item()
    assert last["content"][0]["text"] == streamed.final_output
    assert len(await session.get_items()) == len(items) - 1
    await session.clear_session()


async def test_a_conversation_kept_by_the_server(agent, async_client):
    conversation = await async_client.conversations.create()
    for text in ("I am Ada.", "weather in Bonn"):
        await Runner.run(agent(tools=[get_weather]), text, conversation_id=conversation.id)
    result = await Runner.run(agent(), "what have I said", conversation_id=conversation.id)
    assert result.final_output == "I am Ada. | weather in Bonn"


async def test_structured_output(agent):
    result = await Runner.run(agent(output_type=Weather), "weather?")
    assert result.final_output == Weather(city="Bonn", celsius=21)


async def test_a_handoff(agent):
    other = agent(instructions="You are the second agent.")
    other.name = "second"
    first = agent(handoffs=[other], model_settings=ModelSettings(tool_choice="auto"))
    result = await Runner.run(first, "hand me over")
    assert result.last_agent is other
    assert result.final_output == "You are the second agent."
