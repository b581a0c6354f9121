// The agent `echo-js` does what `echo` does, in JavaScript: it says the text of the last user message back, word by
// word. With `metadata.delay_ms`, a string from "0" to "10000", it waits that many milliseconds between two words.

import { request } from "outlast:agent/context@0.1.0";
import { Message, reportUsage } from "outlast:agent/respond@0.1.0";
import { sleep } from "outlast:agent/tasks@0.1.0";

const MAX_DELAY_MS = 10_000;

export function describe() {
  return {
    name: "echo-js",
    version: "0.1.0",
    about: "Repeats the last message of the user, word by word; metadata.delay_ms sets the milliseconds between two words.",
    configSchema: undefined,
    wants: undefined,
  };
}

export function run(turn) {
  const delay = delayMs(JSON.parse(request()).metadata?.delay_ms);
  const words = pieces(userText(JSON.parse(turn.input)));

  const message = new Message();
  words.forEach((word, n) => {
    if (n > 0 && delay > 0) sleep(delay);
    message.write(word);
  });
  message.finish();

  const tokens = words.filter((word) => word.trim()).length;
  reportUsage({ inputTokens: tokens, cachedTokens: 0, cacheWriteTokens: 0, outputTokens: tokens, reasoningTokens: 0 });
  return { tag: "completed" };
}

/** The time between two words: none unless the client asks for it. */
function delayMs(text) {
  if (text == null) return 0;
  const ms = Number(text);
  // A number has one spelling: `+5` and `05` are refused like `5s`.
  if (!(ms >= 0 && ms <= MAX_DELAY_MS) || String(Math.trunc(ms)) !== text) {
    throw {
      kind: "invalid",
      code: "invalid_delay_ms",
      message: `metadata.delay_ms must be a whole number of milliseconds from "0" to "${MAX_DELAY_MS}", as a string; it is ${JSON.stringify(text)}`,
      retryAfterMs: undefined,
    };
  }
  return ms;
}

/** The text of the last message of the user, exactly as sent. */
function userText(items) {
  const message = items.findLast((item) => (item.type ?? "message") === "message" && item.role === "user");
  return (message?.content ?? []).map((part) => part.text ?? "").join("");
}

/** The words of a text, each with the white space behind it; what stands before the first word goes with it. */
function pieces(text) {
  return text.match(/^\s*\S*\s*|\S+\s*/g)?.filter(Boolean) ?? [];
}
