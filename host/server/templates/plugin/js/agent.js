// The agent `{{name}}` counts the words that it is told.
//
// What it may call is in `wit/`. Names become camelCase, records objects, and a `result` is a value or an exception.

import { config } from "outlast:agent/context@0.1.0";
import { Message } from "outlast:agent/respond@0.1.0";

export function describe() {
  return {
    name: "{{name}}",
    version: "0.1.0",
    about: "Counts the words that it is told.",
    configSchema: JSON.stringify({
      type: "object",
      properties: { unit: { type: "string", description: "What is counted, for people." } },
      additionalProperties: false,
    }),
    wants: undefined,
  };
}

export function run(turn) {
  const { unit = "words" } = JSON.parse(config());
  const count = userText(JSON.parse(turn.input)).split(/\s+/).filter(Boolean).length;
  if (count === 0) throw failure("invalid", "nothing_said", "say something to be counted");
  const message = new Message();
  message.write(`${count} ${unit}`);
  message.finish();
  return { tag: "completed" };
}

/** The text of the last message of the user. */
function userText(items) {
  const message = items.findLast((item) => (item.type ?? "message") === "message" && item.role === "user");
  return (message?.content ?? []).map((part) => part.text ?? "").join("");
}

/** What `run` throws to fail. The client reads it. */
function failure(kind, code, message) {
  return { kind, code, message, retryAfterMs: undefined };
}
