"""What every suite shares: the addresses, and clients for them."""

import os
import time
import uuid

import pytest
import requests
from openai import AsyncOpenAI, OpenAI

URL = os.environ["OUTLAST_URL"]
KEY = os.environ["OUTLAST_KEY"]
OTHER_KEY = os.environ["OUTLAST_OTHER_KEY"]
UPSTREAM = os.environ["UPSTREAM_URL"]

# A client that waits for longer has found a defect.
TIMEOUT = 30

# What `chat` says when nothing else is asked of it.
ANSWER = "Every run outlives its client."
# A red dot.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHx"
    "gljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
IMAGE = f"data:image/png;base64,{PNG}"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["lenient", "strict"])
def client(request):
    """A client; a strict one refuses everything that is not what its types say."""
    strict = request.param == "strict"
    with OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=TIMEOUT, _strict_response_validation=strict) as client:
        yield client


@pytest.fixture
def lenient_client():
    """For answers that the SDK's own types do not fit."""
    with OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
def other_client():
    """A client of another caller."""
    with OpenAI(base_url=f"{URL}/v1", api_key=OTHER_KEY, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
async def async_client():
    async with AsyncOpenAI(
        base_url=f"{URL}/v1", api_key=KEY, timeout=TIMEOUT, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def unique():
    """A text that no other check has."""
    return uuid.uuid4().hex


@pytest.fixture
def upstream_calls():
    """The calls that the upstream has got and whose messages contain a text."""

    def calls(part):
        entries = requests.get(f"{UPSTREAM}/__aimock/journal", timeout=TIMEOUT).json()
        return [entry["body"] for entry in entries if entry["body"] and part in str(entry["body"])]

    return calls


def until(what, attempt, seconds=TIMEOUT):
    """Repeats until the attempt returns something."""
    deadline = time.monotonic() + seconds
    while not (result := attempt()):
        assert time.monotonic() < deadline, f"waited {seconds} s: {what}"
    return result


def ended(client, response_id):
    """Polls, as a client of a background response does."""

    def attempt():
        response = client.responses.retrieve(response_id)
        return response if response.status not in ("queued", "in_progress") else None

    return until(f"{response_id} ends", attempt)
