"""LangChain's chat model and agents."""

import openai
import pytest
from conftest import ANSWER, IMAGE, KEY, PNG, TIMEOUT, URL
from langchain.agents import create_agent
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

pytestmark = pytest.mark.anyio


@tool
def get_weather(city: str, unit: str) -> str:
    """Tells the weather."""
    return f"{city} 21"


@tool
def take_picture() -> list:
    """Takes a picture."""
    return [{"type": "text", "text": "A dot."}, {"type": "image_url", "image_url": {"url": IMAGE}}]


@tool
def draw_picture() -> list:
    """Takes a picture, and returns it as LangChain's own standard says."""
    return [{"type": "image", "base64": PNG, "mime_type": "image/png"}]


class Weather(BaseModel):
    """The weather."""

    city: str
    celsius: int


def chat(**options):
    # LangChain keeps one client for asyncio, and each test has a loop of its own.
    options = {"http_async_client": openai.DefaultAsyncHttpxClient(), **options}
    options = {"use_responses_api": True, "max_retries": 0, "timeout": TIMEOUT, **options}
    return ChatOpenAI(model="chat/gpt-4o", base_url=f"{URL}/v1", api_key=KEY, **options)


def ask(text):
    return {"messages": [HumanMessage(text)]}


def test_an_answer(lenient_client):
    answer = chat().invoke("hello")
    assert answer.text == ANSWER
    assert answer.usage_metadata["total_tokens"] > 0
    assert lenient_client.responses.retrieve(answer.response_metadata["id"]).output_text == ANSWER


def test_a_stream():
    chunks = list(chat().stream("hello"))
    assert sum(1 for chunk in chunks if chunk.text) > 1
    whole = sum(chunks[1:], chunks[0])
    assert whole.text == ANSWER
    assert whole.usage_metadata["total_tokens"] > 0


async def test_a_stream_is_read_by_asyncio():
    assert "".join([chunk.text async for chunk in chat().astream("hello")]) == ANSWER


def test_a_tool_loop():
    result = create_agent(chat(), [get_weather]).invoke(ask("weather in Bonn and Kiel"))
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    assert result["messages"][-1].text == "The tools say: Bonn 21 and Kiel 21."


async def test_a_tool_loop_is_streamed():
    agent = create_agent(chat(), [get_weather])
    parts = [part async for part, _ in agent.astream(ask("weather in Kiel"), stream_mode="messages")]
    assert "".join(call["args"] or "" for part in parts for call in getattr(part, "tool_call_chunks", [])) == (
        '{"city":"Kiel","unit":"celsius"}'
    )
    assert "".join(part.text for part in parts if part.type == "AIMessageChunk") == "The tools say: Kiel 21."


def test_a_chain_of_previous_responses(lenient_client):
    agent = create_agent(chat(use_previous_response_id=True), [get_weather])
    first = agent.invoke(ask("weather in Bonn"))
    called, answered = (message for message in first["messages"] if message.type == "ai")
    stored = lenient_client.responses.retrieve(answered.response_metadata["id"])
    assert stored.previous_response_id == called.response_metadata["id"]
    again = agent.invoke({"messages": [*first["messages"], HumanMessage("what have I said")]})
    assert again["messages"][-1].text == "weather in Bonn"


def test_a_history_of_the_client():
    agent = create_agent(chat(store=False), [get_weather])
    first = agent.invoke(ask("weather in Bonn"))
    again = agent.invoke({"messages": [*first["messages"], HumanMessage("what have I said")]})
    assert again["messages"][-1].text == "weather in Bonn"


@pytest.mark.parametrize("output_version", ["v0", "responses/v1", "v1"])
def test_an_image_from_a_tool(output_version):
    result = create_agent(chat(output_version=output_version), [take_picture]).invoke(ask("take a picture"))
    assert result["messages"][-1].text == f"I see 1: {IMAGE}"


def test_an_image_from_a_tool_in_the_standard_form():
    draw_picture.name = "take_picture"
    result = create_agent(chat(), [draw_picture]).invoke(ask("take a picture"))
    assert result["messages"][-1].text == f"I see 1: {IMAGE}"


def test_structured_output():
    assert chat().with_structured_output(Weather).invoke("weather?") == Weather(city="Bonn", celsius=21)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("an overloaded model", openai.InternalServerError),
        ("a limited model", openai.RateLimitError),
        ("a rejected call", openai.InternalServerError),
        ("a conversation without end", ContextOverflowError),
        ("a cut answer", openai.InternalServerError),
    ],
)
def test_a_failure_is_raised(text, error):
    with pytest.raises(error):
        chat().invoke(text)


@pytest.mark.parametrize("text", ["an overloaded model", "a cut answer"])
def test_a_failure_in_a_stream_is_raised(text):
    with pytest.raises((openai.APIError, ValueError), match="model"):
        list(chat().stream(text))


def test_a_conversation_that_is_too_long_is_known_in_a_stream():
    with pytest.raises(ContextOverflowError):
        list(chat().stream("a conversation without end"))
