"""Pydantic AI."""

import pytest
from conftest import ANSWER, IMAGE, KEY, URL
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, ToolReturn
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = pytest.mark.anyio


class Weather(BaseModel):
    city: str
    celsius: int


def get_weather(city: str, unit: str) -> str:
    """Tells the weather."""
    return f"{city} 21"


def take_picture() -> BinaryContent:
    """Takes a picture."""
    return BinaryContent.from_data_uri(IMAGE)


@pytest.fixture
async def agent():
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as client:
        model = OpenAIResponsesModel("chat/gpt-4o", provider=OpenAIProvider(openai_client=client))
        yield lambda **options: Agent(model, **options)


async def test_an_answer(agent, lenient_client):
    result = await agent(instructions="Be brief.").run("hello")
    assert result.output == ANSWER
    assert result.usage.total_tokens > 0
    assert lenient_client.responses.retrieve(result.response.provider_response_id).output_text == ANSWER


async def test_a_stream(agent):
    async with agent().run_stream("hello") as result:
        parts = [part async for part in result.stream_text(delta=True, debounce_by=None)]
    assert len(parts) > 1
    assert "".join(parts) == ANSWER


async def test_a_tool_loop(agent):
    result = await agent(tools=[get_weather]).run("weather in Bonn and Kiel")
    assert result.output == "The tools say: Bonn 21 and Kiel 21."


async def test_a_tool_loop_is_streamed(agent):
    async with agent(tools=[get_weather]).run_stream("weather in Kiel") as result:
        assert await result.get_output() == "The tools say: Kiel 21."


async def test_a_chain_of_previous_responses(agent, lenient_client):
    chain = agent(tools=[get_weather], model_settings={"openai_previous_response_id": "auto"})
    first = await chain.run("weather in Bonn")
    again = await chain.run("what have I said", message_history=first.all_messages())
    assert again.output == "weather in Bonn"
    stored = lenient_client.responses.retrieve(again.response.provider_response_id)
    assert stored.previous_response_id == first.response.provider_response_id


@pytest.mark.parametrize("store", [True, False])
async def test_a_history_of_the_client(agent, store):
    keeps = agent(tools=[get_weather], model_settings={"openai_store": store})
    first = await keeps.run("weather in Bonn")
    again = await keeps.run("what have I said", message_history=first.all_messages())
    assert again.output == "weather in Bonn"


async def test_an_image_from_a_tool(agent):
    result = await agent(tools=[take_picture]).run("take a picture")
    assert result.output == f"I see 1: {IMAGE}"


async def test_an_image_beside_the_return_of_a_tool(agent):
    def shows() -> ToolReturn:
        """Takes a picture."""
        return ToolReturn(return_value="A dot.", content=[BinaryContent.from_data_uri(IMAGE)])

    model = agent()
    model.tool_plain(name="take_picture")(shows)
    assert (await model.run("take a picture")).output == f"I see 1: {IMAGE}"


async def test_structured_output(agent):
    assert (await agent(output_type=Weather).run("weather?")).output == Weather(city="Bonn", celsius=21)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("an overloaded model", 502),
        ("a limited model", 429),
        ("a rejected call", 502),
        ("a conversation without end", 400),
        ("a cut answer", 502),
    ],
)
async def test_a_failure_is_raised(agent, text, status):
    with pytest.raises(ModelHTTPError) as error:
        await agent().run(text)
    assert error.value.status_code == status


@pytest.mark.parametrize("text", ["an overloaded model", "a cut answer"])
async def test_a_failure_in_a_stream_is_raised(agent, text):
    with pytest.raises(ModelAPIError, match="model"):
        async with agent().run_stream(text) as result:
            await result.get_output()
