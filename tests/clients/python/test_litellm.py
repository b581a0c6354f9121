"""LiteLLM: its own call of the Responses API, and its bridge from Chat Completions to it."""

import json
import os

# It asks the network for prices otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"

import litellm
import openai
import pytest
from conftest import ANSWER, IMAGE, KEY, TIMEOUT, URL

pytestmark = pytest.mark.anyio

SERVER = {"api_base": f"{URL}/v1", "api_key": KEY, "timeout": TIMEOUT, "max_retries": 0}
MODEL = {"model": "openai/chat/gpt-4o", **SERVER}
BRIDGE = {"model": "openai/responses/chat/gpt-4o", **SERVER}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}
WEATHER = {"name": "get_weather", "description": "Tells the weather.", "parameters": PARAMETERS}
PICTURE = {"name": "take_picture", "description": "Takes a picture.", "parameters": {"type": "object", "properties": {}}}


def said(text):
    return [{"role": "user", "content": text}]


def test_an_answer():
    response = litellm.responses(input="hello", **MODEL)
    assert response.output_text == ANSWER
    assert response.usage.total_tokens > 0


def test_a_stream():
    events = list(litellm.responses(input="hello", stream=True, **MODEL))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == ANSWER
    assert events[-1].type == "response.completed"


async def test_a_stream_is_read_by_asyncio():
    stream = await litellm.aresponses(input="hello", stream=True, **MODEL)
    deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER


def test_a_stream_over_the_bridge():
    chunks = list(litellm.completion(messages=said("hello"), stream=True, **BRIDGE))
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(parts) > 1
    assert "".join(parts) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


def outputs(calls, output):
    return [{"type": "function_call_output", "call_id": call.call_id, "output": output(call)} for call in calls]


def weather(call):
    return f"{json.loads(call.arguments)['city']} 21"


def test_a_tool_loop_is_a_chain_of_previous_responses():
    tools = [{"type": "function", **WEATHER}]
    first = litellm.responses(input="weather in Bonn and Kiel", tools=tools, **MODEL)
    assert [call.name for call in first.output] == ["get_weather", "get_weather"]
    results = outputs(first.output, weather)
    answer = litellm.responses(input=results, tools=tools, previous_response_id=first.id, **MODEL)
    assert answer.output_text == "The tools say: Bonn 21 and Kiel 21."
    again = litellm.responses(input="what have I said", previous_response_id=answer.id, **MODEL)
    assert again.output_text == "weather in Bonn and Kiel"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_over_the_bridge(stream):
    tools = [{"type": "function", "function": WEATHER}]
    messages = said("weather in Bonn and Kiel")
    first = completed(messages, stream, tools)
    calls = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    messages.append(first.choices[0].message.model_dump())
    for call in calls:
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{city} 21"})
    answer = completed(messages, stream, tools)
    assert answer.choices[0].message.content == "The tools say: Bonn 21 and Kiel 21."


def completed(messages, stream, tools):
    answer = litellm.completion(messages=messages, tools=tools, stream=stream, **BRIDGE)
    return litellm.stream_chunk_builder(list(answer), messages=messages) if stream else answer


def test_an_image_from_a_tool():
    tools = [{"type": "function", **PICTURE}]
    first = litellm.responses(input="take a picture", tools=tools, **MODEL)
    shown = [{"type": "input_text", "text": "A dot."}, {"type": "input_image", "image_url": IMAGE, "detail": "auto"}]
    results = outputs(first.output, lambda _: shown)
    answer = litellm.responses(input=results, tools=tools, previous_response_id=first.id, **MODEL)
    assert answer.output_text == f"I see 1: {IMAGE}"


def test_an_image_from_a_tool_over_the_bridge():
    tools = [{"type": "function", "function": PICTURE}]
    messages = said("take a picture")
    first = completed(messages, False, tools)
    messages.append(first.choices[0].message.model_dump())
    shown = [{"type": "text", "text": "A dot."}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    messages.append({"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"], "content": shown})
    assert completed(messages, False, tools).choices[0].message.content == f"I see 1: {IMAGE}"


FAILURES = [
    ("an overloaded model", litellm.BadGatewayError),
    ("a limited model", litellm.RateLimitError),
    ("a rejected call", litellm.BadGatewayError),
    ("a conversation without end", litellm.ContextWindowExceededError),
    ("a cut answer", litellm.BadGatewayError),
]


@pytest.mark.parametrize(("text", "error"), FAILURES)
def test_a_failure_is_raised(text, error):
    with pytest.raises(error):
        litellm.responses(input=text, **MODEL)


@pytest.mark.parametrize(("text", "error"), FAILURES)
def test_a_failure_is_raised_over_the_bridge(text, error):
    with pytest.raises(error):
        litellm.completion(messages=said(text), **BRIDGE)


@pytest.mark.parametrize("text", ["an overloaded model", "a cut answer"])
def test_a_failure_in_a_stream_is_raised(text):
    with pytest.raises(openai.APIError, match="model"):
        list(litellm.responses(input=text, stream=True, **MODEL))
    with pytest.raises(openai.APIError, match="model"):
        list(litellm.completion(messages=said(text), stream=True, **BRIDGE))
