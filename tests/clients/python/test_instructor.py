"""Instructor: answers as objects, over the arguments of a tool."""

import instructor
import pytest
from conftest import IMAGE, KEY, TIMEOUT, URL
from instructor.core import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

pytestmark = pytest.mark.anyio


class Weather(BaseModel):
    """The weather."""

    city: str
    celsius: int


class Seen(BaseModel):
    """The pictures that were seen."""

    images: list[str]


SERVER = {"base_url": f"{URL}/v1", "api_key": KEY, "timeout": TIMEOUT, "max_retries": 0}
ANSWER = {"city": "Bonn", "celsius": 21}
MODES = [instructor.Mode.RESPONSES_TOOLS, instructor.Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS]
FAILURES = ["an overloaded model", "a limited model", "a rejected call", "a conversation without end", "a cut answer"]


@pytest.fixture
def ask():
    with OpenAI(**SERVER) as client:
        yield instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS, model="chat/gpt-4o")


def said(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("mode", MODES)
def test_an_object(mode):
    with OpenAI(**SERVER) as client:
        ask = instructor.from_openai(client, mode=mode, model="chat/gpt-4o")
        weather, response = ask.create_with_completion(response_model=Weather, messages=said("weather?"))
    assert weather.model_dump() == ANSWER
    assert response.usage.total_tokens > 0


def test_a_streamed_object(ask):
    parts = list(ask.create_partial(response_model=Weather, messages=said("weather?")))
    assert len(parts) > 1
    assert parts[-1].model_dump() == ANSWER


async def test_an_object_for_asyncio():
    async with AsyncOpenAI(**SERVER) as client:
        ask = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS, model="chat/gpt-4o")
        weather = await ask.create(response_model=Weather, messages=said("weather?"))
    assert weather.model_dump() == ANSWER


def test_a_chain_of_previous_responses(ask, lenient_client):
    first = lenient_client.responses.create(model="chat/gpt-4o", input="hello")
    messages = said("weather?")
    weather, again = ask.create_with_completion(
        response_model=Weather, messages=messages, previous_response_id=first.id
    )
    assert weather.model_dump() == ANSWER
    assert lenient_client.responses.retrieve(again.id).previous_response_id == first.id


def test_an_image_from_a_tool(ask, lenient_client):
    """Instructor takes no outputs of tools: the picture is in the response that it continues."""
    tool = {"type": "function", "name": "take_picture", "parameters": {"type": "object", "properties": {}}}
    call = lenient_client.responses.create(model="chat/gpt-4o", input="take a picture", tools=[tool])
    shown = [{"type": "input_text", "text": "A dot."}, {"type": "input_image", "image_url": IMAGE}]
    output = {"type": "function_call_output", "call_id": call.output[0].call_id, "output": shown}
    looked = lenient_client.responses.create(model="chat/gpt-4o", input=[output], previous_response_id=call.id)
    seen = ask.create(response_model=Seen, messages=said("What have you seen?"), previous_response_id=looked.id)
    assert seen.images == [IMAGE]


@pytest.mark.parametrize("text", FAILURES)
def test_a_failure_is_raised(ask, text):
    with pytest.raises(InstructorRetryException, match="model"):
        ask.create(response_model=Weather, messages=said(text), max_retries=0)


@pytest.mark.parametrize("text", ["an overloaded model", "a cut answer"])
def test_a_failure_in_a_stream_is_raised(ask, text):
    with pytest.raises(Exception, match="model"):
        list(ask.create_partial(response_model=Weather, messages=said(text), max_retries=0))
