// What the suites share.

import assert from "node:assert/strict";
import OpenAI from "openai";

export const url = process.env.OUTLAST_URL;
export const key = process.env.OUTLAST_KEY;
export const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, timeout: 30_000 });

export async function collect(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}

export const textOf = (events) =>
  events
    .filter((event) => event.type === "response.output_text.delta")
    .map((event) => event.delta)
    .join("");

export async function ended(id) {
  for (const deadline = Date.now() + 30_000; Date.now() < deadline; ) {
    const response = await client.responses.retrieve(id);
    if (response.status !== "queued" && response.status !== "in_progress") return response;
  }
  assert.fail(`${id} does not end`);
}

// The calls that the upstream has got and whose messages contain a text.
export async function upstreamCalls(part) {
  const entries = await (await fetch(`${process.env.UPSTREAM_URL}/__aimock/journal`)).json();
  return entries.map((entry) => entry.body).filter((body) => JSON.stringify(body)?.includes(part));
}

// The error that a call must fail with.
export async function failure(call) {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof OpenAI.APIError, error);
    return error;
  }
  assert.fail("it did not fail");
}
