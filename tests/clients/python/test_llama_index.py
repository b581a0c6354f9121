"""LlamaIndex."""

import base64

import openai
import pytest
from conftest import ANSWER, IMAGE, KEY, PNG, TIMEOUT, URL
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from pydantic import BaseModel

pytestmark = pytest.mark.anyio


class Weather(BaseModel):
    city: str
    celsius: int


def get_weather(city: str, unit: str) -> str:
    """Tells the weather."""
    return f"{city} 21"


def take_picture() -> list:
    """Takes a picture."""
    return [TextBlock(text="A dot."), ImageBlock(image=base64.b64decode(PNG), image_mimetype="image/png")]


def chat(**options):
    options = {"max_retries": 0, "timeout": TIMEOUT, "context_window": 100_000, **options}
    return OpenAIResponses(model="chat/gpt-4o", api_base=f"{URL}/v1", api_key=KEY, **options)


def said(text):
    return [ChatMessage(role="user", content=text)]


def test_an_answer():
    assert chat().complete("hello").text == ANSWER
    answer = chat().chat(said("hello"))
    assert answer.message.content == ANSWER
    assert answer.raw.usage.total_tokens > 0


def test_a_stream():
    deltas = [part.delta for part in chat().stream_chat(said("hello")) if part.delta]
    assert len(deltas) > 1
    assert "".join(deltas) == ANSWER


async def test_a_stream_is_read_by_asyncio():
    stream = await chat().astream_chat(said("hello"))
    assert "".join([part.delta async for part in stream if part.delta]) == ANSWER


async def test_a_tool_loop():
    agent = FunctionAgent(tools=[get_weather], llm=chat())
    assert str(await agent.run("weather in Bonn and Kiel")) == "The tools say: Bonn 21 and Kiel 21."


async def test_a_tool_loop_without_streams():
    agent = FunctionAgent(tools=[get_weather], llm=chat(), streaming=False)
    assert str(await agent.run("weather in Kiel")) == "The tools say: Kiel 21."


def test_a_chain_of_previous_responses(lenient_client):
    model = chat(track_previous_responses=True)
    first = model.chat(said("I am Ada."))
    again = model.chat(said("what have I said"))
    assert again.message.content == "I am Ada."
    assert lenient_client.responses.retrieve(again.raw.id).previous_response_id == first.raw.id


def test_a_streamed_chain_of_previous_responses():
    model = chat(track_previous_responses=True)
    list(model.stream_chat(said("I am Ada.")))
    assert list(model.stream_chat(said("what have I said")))[-1].message.content == "I am Ada."


async def test_an_image_from_a_tool():
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(take_picture)], llm=chat())
    assert str(await agent.run("take a picture")) == f"I see 1: {IMAGE}"


def test_structured_output():
    result = chat().structured_predict(Weather, PromptTemplate("weather?"))
    assert result == Weather(city="Bonn", celsius=21)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("an overloaded model", openai.InternalServerError),
        ("a limited model", openai.RateLimitError),
        ("a rejected call", openai.InternalServerError),
        ("a conversation without end", openai.BadRequestError),
        ("a cut answer", openai.InternalServerError),
    ],
)
def test_a_failure_is_raised(text, error):
    with pytest.raises(error):
        chat().chat(said(text))


@pytest.mark.parametrize("text", ["an overloaded model", "a cut answer"])
def test_a_failure_in_a_stream_is_raised(text):
    with pytest.raises(openai.APIError, match="model"):
        list(chat().stream_chat(said(text)))
