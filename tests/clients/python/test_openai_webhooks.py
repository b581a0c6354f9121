"""The OpenAI SDK for Python: webhooks."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from conftest import until

TYPES = ["response.completed", "response.failed", "response.incomplete", "response.cancelled"]


@pytest.fixture
def receiver():
    """A server that takes every event. `events` are their headers and bodies, `url` is where it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.server.events.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.events, server.url = [], f"http://127.0.0.1:{server.server_port}/hook"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def endpoint(client, receiver):
    endpoint = client.webhooks.create(name="mine", url=receiver.url, event_types=TYPES)
    yield endpoint
    client.webhooks.delete(endpoint.id)


def begin(client, **options):
    return client.responses.create(model="echo", input="hello", background=True, **options).id


def test_create_retrieve_update_list_delete(client, other_client, receiver):
    made = client.webhooks.create(name="a", url=receiver.url, event_types=["response.completed", "batch.completed"])
    assert made.signing_secret.startswith("whsec_") and made.object == "webhook_endpoint"
    kept = client.webhooks.retrieve(made.id)
    assert (kept.name, kept.event_types) == ("a", ["response.completed", "batch.completed"])
    assert kept.signing_secret_hint and kept.created_at <= kept.updated_at
    changed = client.webhooks.update(made.id, name="b", event_types=["response.failed"])
    assert (changed.name, changed.event_types, changed.url) == ("b", ["response.failed"], receiver.url)
    assert made.id in [endpoint.id for endpoint in client.webhooks.list(limit=1)]
    with pytest.raises(openai.NotFoundError):
        other_client.webhooks.retrieve(made.id)
    deleted = client.webhooks.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "webhook_endpoint.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)
    assert set(client.webhooks.event_types.list().data) == set(TYPES)


def test_unwrap_what_is_sent(client, receiver, endpoint):
    response = begin(client)
    until("the event comes", lambda: receiver.events)
    headers, body = receiver.events[0]
    event = client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id, event.object) == ("response.completed", response, "event")
    assert type(event).__name__ == "ResponseCompletedWebhookEvent"
    assert client.responses.retrieve(event.data.id).output_text == "hello"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + " ", headers, secret=endpoint.signing_secret)


def test_rotate_secret(client, receiver, endpoint):
    second = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    begin(client)
    until("the event comes", lambda: receiver.events)
    headers, body = receiver.events[0]
    for secret in (endpoint.signing_secret, second.signing_secret):
        client.webhooks.verify_signature(body, headers, secret=secret)
    third = client.webhooks.rotate_secret(endpoint.id)
    begin(client)
    until("the next event comes", lambda: len(receiver.events) == 2)
    headers, body = receiver.events[1]
    client.webhooks.verify_signature(body, headers, secret=third.signing_secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, headers, secret=second.signing_secret)


def test_a_sample_event(client, receiver, endpoint):
    result = client.webhooks.test(endpoint.id, event_type="response.failed")
    assert (result.object, result.success, result.status_code) == ("webhook_endpoint.test", True, 204)
    headers, body = receiver.events[0]
    assert client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret).type == "response.failed"


def test_what_is_wrong_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.webhooks.create(name="a", url="https://169.254.169.254/", event_types=TYPES)
    assert refused.value.param == "url"
