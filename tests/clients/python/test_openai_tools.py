"""The OpenAI SDK for Python: functions, structured output, reasoning, images."""

import json
from typing import Literal

import openai
from conftest import IMAGE
from pydantic import BaseModel

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}


class Weather(BaseModel):
    city: str
    celsius: int


class GetWeather(BaseModel):
    """Tells the weather."""

    city: str
    unit: Literal["celsius"]


def results(calls, celsius=21):
    """What the functions return."""
    return [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"{json.loads(call.arguments)['city']} {celsius}",
        }
        for call in calls
    ]


def test_a_function_is_called(client):
    response = client.responses.create(model="chat/gpt-4o", input="weather in Bonn", tools=[TOOL])
    [call] = response.output
    assert (response.status, call.type, call.name, call.status) == (
        "completed",
        "function_call",
        "get_weather",
        "completed",
    )
    assert json.loads(call.arguments) == {"city": "Bonn", "unit": "celsius"}
    assert response.tools[0].name == "get_weather"
    answer = client.responses.create(
        model="chat/gpt-4o", input=results([call]), previous_response_id=response.id, tools=[TOOL]
    )
    assert answer.output_text == "The tools say: Bonn 21."


def test_a_loop_keeps_its_own_history(client):
    history = [{"role": "user", "content": "weather in Bonn and Kiel"}]
    response = client.responses.create(model="chat/gpt-4o", input=history, tools=[TOOL], store=False)
    assert [call.name for call in response.output] == ["get_weather", "get_weather"]
    history += response.output + results(response.output)
    answer = client.responses.create(model="chat/gpt-4o", input=history, tools=[TOOL], store=False)
    assert answer.output_text == "The tools say: Bonn 21 and Kiel 21."


def test_arguments_are_streamed(client):
    stream = client.responses.create(model="chat/gpt-4o", input="weather in Bonn and Kiel", tools=[TOOL], stream=True)
    events = list(stream)
    calls = events[-1].response.output
    assert len(calls) == 2
    for index, call in enumerate(calls):
        own = [event for event in events if getattr(event, "output_index", None) == index]
        assert [own[0].type, own[-2].type, own[-1].type] == [
            "response.output_item.added",
            "response.function_call_arguments.done",
            "response.output_item.done",
        ]
        deltas = own[1:-2]
        assert {event.type for event in deltas} == {"response.function_call_arguments.delta"}
        assert len(deltas) > 1, "the arguments come as the model writes them"
        assert {event.item_id for event in own[1:-1]} == {call.id} == {own[0].item.id, own[-1].item.id}
        assert own[0].item.status == "in_progress" and own[0].item.arguments == ""
        assert "".join(event.delta for event in deltas) == own[-2].arguments == call.arguments
        assert own[-2].name == call.name
    answer = client.responses.create(
        model="chat/gpt-4o", input=results(calls), previous_response_id=events[-1].response.id, stream=True
    )
    assert list(answer)[-1].response.output_text == "The tools say: Bonn 21 and Kiel 21."


def test_the_stream_helper_parses_arguments(client):
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    with client.responses.stream(model="chat/gpt-4o", input="weather in Kiel", tools=[tool]) as stream:
        events = list(stream)
        [call] = stream.get_final_response().output
    snapshots = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert snapshots[-1] == call.arguments
    assert call.parsed_arguments == GetWeather(city="Kiel", unit="celsius")


def test_tool_choice_reaches_the_model(client, unique, upstream_calls):
    choice = {"type": "function", "name": "get_weather"}
    client.responses.create(model="chat/gpt-4o", input=f"weather in Bonn {unique}", tools=[TOOL], tool_choice=choice)
    [call] = upstream_calls(unique)
    assert call["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert call["tools"][0]["function"]["parameters"] == PARAMETERS


def test_structured_output(client, unique, upstream_calls):
    response = client.responses.parse(model="chat/gpt-4o", input=f"weather? {unique}", text_format=Weather)
    assert response.output_parsed == Weather(city="Bonn", celsius=21)
    assert (response.text.format.type, response.text.format.name) == ("json_schema", "Weather")
    [call] = upstream_calls(unique)
    assert call["response_format"]["type"] == "json_schema"
    assert call["response_format"]["json_schema"]["schema"]["required"] == ["city", "celsius"]
    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_structured_output_is_streamed(client):
    with client.responses.stream(model="chat/gpt-4o", input="weather?", text_format=Weather) as stream:
        assert stream.get_final_response().output_parsed == Weather(city="Bonn", celsius=21)


def test_a_json_schema_is_sent_by_hand(client):
    schema = {"type": "json_schema", "name": "weather", "schema": Weather.model_json_schema()}
    response = client.responses.create(model="chat/gpt-4o", input="weather?", text={"format": schema})
    assert json.loads(response.output_text) == {"city": "Bonn", "celsius": 21}


def test_reasoning_is_summarized(client):
    events = list(client.responses.create(model="chat/gpt-4o", input="six times seven", stream=True))
    thoughts = "".join(event.delta for event in events if event.type == "response.reasoning_summary_text.delta")
    reasoning, message = events[-1].response.output
    assert reasoning.summary[0].text == thoughts == "Six times seven is forty-two."
    assert message.content[0].text == "It is 42."


def test_an_image_reaches_the_model(client):
    parts = [
        {"type": "input_text", "text": "how many images"},
        {"type": "input_image", "image_url": IMAGE, "detail": "low"},
        {"type": "input_image", "image_url": "https://example.com/dot.png", "detail": "auto"},
    ]
    response = client.responses.create(model="chat/gpt-4o", input=[{"role": "user", "content": parts}])
    assert response.output_text == f"I see 2: {IMAGE} https://example.com/dot.png"
    [item] = client.responses.input_items.list(response.id)
    assert [part.type for part in item.content] == ["input_text", "input_image", "input_image"]
    assert item.content[1].image_url == IMAGE
