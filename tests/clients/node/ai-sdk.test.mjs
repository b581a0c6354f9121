// The AI SDK, over its provider for the Responses API.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";
import { client, collect, key, url } from "./client.mjs";

const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const model = openai.responses("chat/gpt-4o");
const tools = {
  get_weather: tool({
    description: "Tells the weather.",
    inputSchema: z.object({ city: z.string(), unit: z.string() }),
    execute: async ({ city }) => `${city} 21`,
  }),
};

test("generateText", async () => {
  const result = await generateText({ model, system: "You are a parrot.", prompt: "who are you" });
  assert.equal(result.text, "You are a parrot.");
  assert.equal(result.finishReason, "stop");
  assert.ok(result.usage.totalTokens > 0);
  assert.equal((await client.responses.retrieve(result.response.id)).output_text, result.text);
});

test("streamText", async () => {
  const result = streamText({ model, prompt: "hello" });
  const parts = await collect(result.textStream);
  assert.ok(parts.length > 1);
  assert.equal(parts.join(""), "Every run outlives its client.");
  assert.equal(await result.finishReason, "stop");
  assert.ok((await result.usage).totalTokens > 0);
});

test("a tool loop", async () => {
  const result = await generateText({ model, tools, prompt: "weather in Bonn and Kiel", stopWhen: isStepCount(3) });
  assert.equal(result.text, "The tools say: Bonn 21 and Kiel 21.");
  assert.equal(result.steps.length, 2);
});

test("a tool loop, streamed", async () => {
  const result = streamText({ model, tools, prompt: "weather in Kiel", stopWhen: isStepCount(3) });
  const parts = await collect(result.fullStream);
  const types = parts.map((part) => part.type);
  for (const type of ["tool-input-start", "tool-input-delta", "tool-call", "tool-result"]) {
    assert.ok(types.includes(type), `${type} is missing: ${types}`);
  }
  assert.equal(await result.text, "The tools say: Kiel 21.");
});

test("a tool loop that keeps nothing on the server", async () => {
  const providerOptions = { openai: { store: false } };
  const prompt = "weather in Bonn";
  const result = await generateText({ model, tools, prompt, stopWhen: isStepCount(3), providerOptions });
  assert.equal(result.text, "The tools say: Bonn 21.");
});

test("a chat that names earlier items", async () => {
  const messages = [{ role: "user", content: "I am Ada." }];
  const first = await generateText({ model, messages });
  messages.push(...first.response.messages, { role: "user", content: "what have I said" });
  assert.equal((await generateText({ model, messages })).text, "I am Ada.");
});

test("a chat over previous responses and conversations", async () => {
  const first = await generateText({ model, prompt: "I am Ada." });
  const next = (openaiOptions) =>
    generateText({ model, prompt: "what have I said", providerOptions: { openai: openaiOptions } });
  assert.equal((await next({ previousResponseId: first.response.id })).text, "I am Ada.");
  const { id } = await client.conversations.create({
    items: [{ type: "message", role: "user", content: "I am Bob." }],
  });
  assert.equal((await next({ conversation: id })).text, "I am Bob.");
});

test("structured output", async () => {
  const output = Output.object({ schema: z.object({ city: z.string(), celsius: z.number() }) });
  const result = await generateText({ model, output, prompt: "weather?" });
  assert.deepEqual(result.output, { city: "Bonn", celsius: 21 });
  const streamed = streamText({ model, output, prompt: "weather?" });
  assert.ok((await collect(streamed.partialOutputStream)).length > 0);
  assert.deepEqual(await streamed.output, { city: "Bonn", celsius: 21 });
});

test("reasoning and images", async () => {
  const thought = await generateText({ model, prompt: "six times seven" });
  assert.equal(thought.reasoningText, "Six times seven is forty-two.");
  assert.equal(thought.text, "It is 42.");
  const content = [
    { type: "text", text: "how many images" },
    { type: "file", mediaType: "image/png", data: new URL("https://example.com/dot.png") },
  ];
  const seen = await generateText({ model, messages: [{ role: "user", content }] });
  assert.equal(seen.text, "I see 1: https://example.com/dot.png");
});

test("a failed response is an error", async () => {
  const prompt = "an overloaded model";
  await assert.rejects(generateText({ model, prompt, maxRetries: 0 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.match(error.responseBody, /is not available/);
    return true;
  });
  const errors = [];
  const result = streamText({ model, prompt, onError: ({ error }) => errors.push(error) });
  await collect(result.fullStream);
  assert.match(JSON.stringify(errors), /is not available/);
  assert.equal(await result.finishReason, "error");
});
