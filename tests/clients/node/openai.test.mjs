// The OpenAI SDK for Node.js.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { client, collect, ended, failure, textOf, upstreamCalls } from "./client.mjs";

const model = "chat/gpt-4o";
const never = { delay_ms: "10000" };
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", name: "get_weather", parameters, strict: false }];

describe("responses", () => {
  test("create and retrieve", async () => {
    const response = await client.responses.create({ model, input: "hello" });
    assert.equal(response.status, "completed");
    assert.equal(response.output_text, "Every run outlives its client.");
    assert.ok(response.usage.total_tokens > 0);
    assert.deepEqual(await client.responses.retrieve(response.id), response);
  });

  test("stream, and stream again", async () => {
    const events = await collect(await client.responses.create({ model, input: "hello", stream: true }));
    assert.deepEqual(
      events.map((event) => event.sequence_number),
      events.map((_, index) => index),
    );
    assert.equal(textOf(events), "Every run outlives its client.");
    const { id } = events.at(-1).response;
    assert.deepEqual(await collect(await client.responses.retrieve(id, { stream: true })), events);
    const rest = await client.responses.retrieve(id, { stream: true, starting_after: 3 });
    assert.deepEqual(await collect(rest), events.slice(4));
  });

  test("the stream helper, and the helper coming back", async () => {
    const stream = client.responses.stream({ model: "echo", input: "one two three", background: true });
    const texts = [];
    stream.on("response.output_text.delta", (event) => texts.push(event.delta));
    const response = await stream.finalResponse();
    assert.equal(response.output_text, "one two three");
    assert.equal(texts.join(""), "one two three");
    const again = client.responses.stream({ response_id: response.id, starting_after: 4 });
    const events = await collect(again);
    assert.equal(events[0].sequence_number, 5);
    assert.equal((await again.finalResponse()).output_text, "one two three");
  });

  test("a client that goes away comes back", async () => {
    const input = Array.from({ length: 40 }, (_, number) => `word${number}`).join(" ");
    const metadata = { delay_ms: "5" };
    const stream = await client.responses.create({ model: "echo", input, metadata, stream: true });
    const seen = [];
    for await (const event of stream) {
      seen.push(event);
      if (seen.length === 10) break;
    }
    const { id } = seen[0].response;
    const options = { stream: true, starting_after: seen.at(-1).sequence_number };
    const rest = await collect(await client.responses.retrieve(id, options));
    assert.equal(textOf([...seen, ...rest]), input);
    assert.equal(rest.at(-1).type, "response.completed");
  });

  test("background", async () => {
    const response = await client.responses.create({ model: "echo", input: "one two", background: true });
    assert.match(response.status, /^(queued|in_progress)$/);
    assert.equal((await ended(response.id)).output_text, "one two");
  });

  test("cancel", async () => {
    const body = { model: "echo", input: "one two", metadata: never };
    const { id } = await client.responses.create({ ...body, background: true });
    assert.equal((await client.responses.cancel(id)).status, "cancelled");
    const stream = await client.responses.create({ ...body, stream: true });
    const events = [];
    for await (const event of stream) {
      if (events.length === 0) await client.responses.cancel(event.response.id);
      events.push(event);
    }
    assert.equal(events.at(-1).type, "response.failed");
    assert.equal(events.at(-1).response.status, "cancelled");
  });

  test("delete", async () => {
    const { id } = await client.responses.create({ model: "echo", input: "hello" });
    await client.responses.delete(id);
    await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
  });

  test("input items, in pages", async () => {
    const input = Array.from({ length: 25 }, (_, number) => ({ role: "user", content: `message ${number}` }));
    const { id } = await client.responses.create({ model: "echo", input });
    const items = await collect(client.responses.inputItems.list(id, { order: "asc", limit: 10 }));
    assert.deepEqual(
      items.map((item) => item.content[0].text),
      input.map((message) => message.content),
    );
  });

  test("a response goes on from another", async () => {
    const first = await client.responses.create({ model, input: "I am Ada." });
    const body = { model, input: "what have I said", previous_response_id: first.id };
    assert.equal((await client.responses.create(body)).output_text, "I am Ada.");
  });

  test("input tokens", async () => {
    const count = await client.responses.inputTokens.count({ model, input: "hello" });
    assert.equal(count.object, "response.input_tokens");
    assert.ok(count.input_tokens > 0);
  });

  test("compaction", async () => {
    const compaction = await client.responses.compact({ model, input: "We launch on Tuesday." });
    assert.equal(compaction.object, "response.compaction");
    const input = [...compaction.output, { role: "user", content: "hello" }];
    assert.equal((await client.responses.create({ model, input })).status, "completed");
  });
});

describe("tools and structured output", () => {
  test("a loop with streamed arguments", async () => {
    const input = "weather in Bonn and Kiel";
    const events = await collect(await client.responses.create({ model, input, tools, stream: true }));
    const response = events.at(-1).response;
    assert.deepEqual(
      response.output.map((call) => JSON.parse(call.arguments).city),
      ["Bonn", "Kiel"],
    );
    for (const call of response.output) {
      const own = events.filter((event) => event.item_id === call.id);
      const deltas = own.filter((event) => event.type === "response.function_call_arguments.delta");
      assert.equal(deltas.map((event) => event.delta).join(""), call.arguments);
      assert.equal(own.at(-1).type, "response.function_call_arguments.done");
    }
    const outputs = response.output.map((call) => ({
      type: "function_call_output",
      call_id: call.call_id,
      output: "21",
    }));
    const answer = await client.responses.create({ model, input: outputs, previous_response_id: response.id });
    assert.equal(answer.output_text, "The tools say: 21 and 21.");
  });

  test("the stream helper accumulates arguments", async () => {
    const stream = client.responses.stream({ model, input: "weather in Bonn", tools });
    const [call] = (await stream.finalResponse()).output;
    assert.equal(JSON.parse(call.arguments).city, "Bonn");
  });

  test("structured output", async () => {
    const Weather = z.object({ city: z.string(), celsius: z.number() });
    const text = { format: zodTextFormat(Weather, "weather") };
    const response = await client.responses.parse({ model, input: "weather?", text });
    assert.deepEqual(response.output_parsed, { city: "Bonn", celsius: 21 });
    const streamed = await client.responses.stream({ model, input: "weather?", text }).finalResponse();
    assert.deepEqual(streamed.output_parsed, { city: "Bonn", celsius: 21 });
  });
});

describe("conversations", () => {
  test("a conversation remembers", async () => {
    const { id } = await client.conversations.create({ metadata: { topic: "tea" } });
    await client.responses.create({ model, conversation: id, input: "I am Ada." });
    const response = await client.responses.create({ model, conversation: { id }, input: "what have I said" });
    assert.equal(response.output_text, "I am Ada.");
    assert.equal(response.conversation.id, id);
    const items = await collect(client.conversations.items.list(id, { order: "asc", limit: 3 }));
    assert.deepEqual(
      items.map((item) => item.role),
      ["user", "assistant", "user", "assistant"],
    );
    assert.equal((await client.conversations.delete(id)).deleted, true);
    await assert.rejects(client.conversations.retrieve(id), OpenAI.NotFoundError);
  });

  test("its items", async () => {
    const { id } = await client.conversations.create();
    const message = { type: "message", role: "user", content: "hello" };
    const { data } = await client.conversations.items.create(id, { items: [message] });
    const options = { conversation_id: id };
    assert.deepEqual(await client.conversations.items.retrieve(data[0].id, options), data[0]);
    assert.equal((await client.conversations.items.delete(data[0].id, options)).id, id);
    assert.deepEqual(await collect(client.conversations.items.list(id)), []);
    assert.deepEqual((await client.conversations.update(id, { metadata: { a: "b" } })).metadata, { a: "b" });
  });

  test("one response at a time", async () => {
    const conversation = randomUUID();
    const body = { model: "echo", conversation, input: "one two", metadata: never };
    const active = await client.responses.create({ ...body, background: true });
    await assert.rejects(client.responses.create({ model, conversation, input: "hello" }), (error) => {
      assert.ok(error instanceof OpenAI.ConflictError);
      assert.equal(error.code, "conversation_response_not_completed");
      assert.equal(error.error.response_id, active.id);
      return true;
    });
    await client.responses.cancel(active.id);
  });
});

describe("errors and retries", () => {
  const refused = (type, fields) => (error) => {
    assert.ok(error instanceof type, String(error));
    for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value);
    return true;
  };

  test("typed errors", async () => {
    const create = (body, options) => client.responses.create({ model: "echo", input: "hello", ...body }, options);
    const headers = { authorization: "Bearer wrong" };
    await assert.rejects(create({}, { headers }), refused(OpenAI.AuthenticationError, { code: "invalid_api_key" }));
    await assert.rejects(create({ temperature: 9 }), refused(OpenAI.BadRequestError, { param: "temperature" }));
    await assert.rejects(create({ model: "nobody" }), refused(OpenAI.NotFoundError, { code: "model_not_found" }));
    await assert.rejects(client.responses.retrieve("resp_unknown"), refused(OpenAI.NotFoundError, { status: 404 }));
  });

  test("a key names one run, and a conflict is not repeated", async () => {
    const idempotencyKey = randomUUID();
    let requests = 0;
    const counting = client.withOptions({ fetch: (...call) => ((requests += 1), fetch(...call)) });
    const headers = { "Idempotency-Key": idempotencyKey };
    const create = (input) => counting.responses.create({ model, input }, { headers });
    const first = await create(idempotencyKey);
    assert.equal((await create(idempotencyKey)).id, first.id);
    assert.equal((await upstreamCalls(idempotencyKey)).length, 1);
    await assert.rejects(create("something else"), refused(OpenAI.ConflictError, { code: "idempotency_key_conflict" }));
    assert.equal(requests, 3);
  });

  test("the SDK repeats what a network lost", async () => {
    const idempotencyKey = randomUUID();
    let lost = false;
    const losing = client.withOptions({
      fetch: async (...call) => {
        const answer = await fetch(...call);
        if (lost) return answer;
        lost = true;
        await answer.arrayBuffer();
        throw new TypeError("the connection was reset");
      },
    });
    const headers = { "Idempotency-Key": idempotencyKey };
    const response = await losing.responses.create({ model, input: idempotencyKey }, { headers });
    assert.equal(response.status, "completed");
    assert.equal((await upstreamCalls(idempotencyKey)).length, 1);
  });

  for (const [input, status, code, model] of [
    ["an overloaded model", 502, "server_error", "chat/gpt-4o"],
    ["a limited model", 429, "rate_limit_exceeded", "chat/gpt-4o"],
    ["a cut answer", 502, "server_error", "chat/gpt-4o"],
    ["a stalled answer", 504, "server_error", "chat/impatient/gpt-4o"],
  ]) {
    test(`${input}: an error`, async () => {
      const failed = await failure(client.responses.create({ model, input }, { maxRetries: 0 }));
      assert.deepEqual([failed.status, failed.code], [status, code]);
      const response = await client.responses.retrieve(failed.error.response_id);
      assert.deepEqual([response.status, response.error.code], ["failed", code]);
      const stream = await client.responses.create({ model, input, stream: true });
      assert.equal((await failure(collect(stream))).code, code);
    });
  }
});

test("turns over a WebSocket, and an error between them", async () => {
  const socket = new ResponsesWS(client);
  const messages = socket.stream();
  // What ends a turn.
  const turn = async (body) => {
    socket.send({ type: "response.create", model, store: false, ...body });
    for (;;) {
      const { value } = await messages.next();
      if (value.type === "error") return value.error.error;
      assert.notEqual(value.type, "close");
      if (value.message?.type === "response.completed") return value.message;
    }
  };
  try {
    const { response } = await turn({ input: "I am Ada." });
    const input = "what have I said";
    const failed = await turn({ input, previous_response_id: "resp_unknown" });
    assert.equal(failed.error.code, "previous_response_not_found");
    const next = await turn({ input, previous_response_id: response.id });
    assert.equal(next.response.output[0].content[0].text, "I am Ada.");
  } finally {
    socket.close();
  }
});

test("models", async () => {
  const names = (await collect(client.models.list())).map((one) => one.id);
  assert.ok(names.includes("echo") && names.includes("chat"));
});

test("webhooks", async () => {
  const events = [];
  let came;
  const next = () => new Promise((resolve) => (came = resolve));
  const receiver = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    events.push({ headers: request.headers, body });
    response.writeHead(204).end();
    came?.();
  });
  await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${receiver.address().port}/hook`;
  const event_types = ["response.completed"];
  const endpoint = await client.webhooks.create({ name: "mine", url, event_types });
  try {
    assert.equal((await client.webhooks.retrieve(endpoint.id)).url, url);
    assert.equal((await client.webhooks.update(endpoint.id, { name: "ours" })).name, "ours");
    assert.ok((await collect(client.webhooks.list())).some((one) => one.id === endpoint.id));
    assert.ok((await client.webhooks.eventTypes.list()).data.includes("response.completed"));
    let arrives = next();
    const { id } = await client.responses.create({ model: "echo", input: "hello", background: true });
    await arrives;
    const event = await client.webhooks.unwrap(events[0].body, events[0].headers, endpoint.signing_secret);
    assert.deepEqual([event.type, event.data.id], ["response.completed", id]);
    const rotated = await client.webhooks.rotateSecret(endpoint.id);
    arrives = next();
    const sample = await client.webhooks.test(endpoint.id, { event_type: "response.failed" });
    assert.equal(sample.status_code, 204);
    await arrives;
    await client.webhooks.verifySignature(events[1].body, events[1].headers, rotated.signing_secret);
    const old = client.webhooks.verifySignature(events[1].body, events[1].headers, endpoint.signing_secret);
    await assert.rejects(old, OpenAI.InvalidWebhookSignatureError);
  } finally {
    await client.webhooks.delete(endpoint.id);
    receiver.close();
  }
  assert.equal((await failure(client.webhooks.retrieve(endpoint.id))).status, 404);
});
