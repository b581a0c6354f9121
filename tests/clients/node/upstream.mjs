// The upstream model: aimock, an independent implementation of the Chat Completions API.
// What it says depends on what the user says last. Prints its address when it listens.

import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, chunkSize: 4, logLevel: "warn" });

const text = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
const said = (request, role) =>
  request.messages.filter((message) => message.role === role).map((message) => text(message.content));

// What goes wrong before the first word.
const fail = (words, status, message, more) => mock.onMessage(words, { error: { message }, status, ...more });
fail("an overloaded model", 503, "The model is overloaded.");
fail("a limited model", 429, "Slow down.", { retryAfter: 0 });
fail("a model for tomorrow", 429, "Slow down.", { retryAfter: 86_400 });
fail("a rejected call", 400, "No such parameter.");
const tooLong = { message: "This model's maximum context length is 8192 tokens.", code: "context_length_exceeded" };
mock.onMessage("a conversation without end", { error: tooLong, status: 400 });
mock.onMessage("a silent model", { content: "Too late." }, { streamingProfile: { ttft: 600_000 } });

// And after it.
const cut = { truncateAfterChunks: 5, latency: 20 };
mock.onMessage("a cut answer", { content: "This answer is cut in the middle of it all." }, cut);
const stall = { recordedTimings: { ttftMs: 0, interChunkDelaysMs: [0, 0, 600_000] } };
mock.onMessage("a stalled answer", { content: "This answer stalls." }, stall);
const slow = { streamingProfile: { ttft: 200, tps: 10 } };
mock.onMessage("a slow answer", { content: "Slow, but whole." }, slow);
mock.onMessage("a long answer", { content: "This answer is too", finishReason: "length" });
mock.onMessage("a filtered answer", { content: "This answer is", finishReason: "content_filter" });

// Codex: one call of the tool that edits files, then an answer; and one that takes a while.
const patch = ["*** Begin Patch", "*** Update File: greeting.txt", "@@", "-Hello.", "+Good morning.", "*** End Patch"];
const edit = { name: "apply_patch", arguments: JSON.stringify({ input: patch.join("\n") }) };
mock.on({ userMessage: "change the greeting", hasToolResult: false }, { toolCalls: [edit] });
const script = { name: "functions__exec", arguments: JSON.stringify({ input: "text(6 * 7)" }) };
mock.on({ userMessage: "run a script", hasToolResult: false }, { toolCalls: [script] });
mock.onMessage("take your time", { content: "It is done." }, { streamingProfile: { ttft: 2_000 } });

// What the model sees.
const images = (messages) => {
  const parts = messages.flatMap((message) => message.content);
  return parts.filter((part) => part?.type === "image_url").map((part) => part.image_url.url);
};
const looks = (request) => {
  const seen = images(request.messages);
  return { content: `I see ${seen.length}: ${seen.join(" ")}` };
};

// A tool that must be called: its arguments are the answer.
const forced = ({ tools, tool_choice: choice }) =>
  tools?.map((tool) => tool.function).find(({ name }) => choice === "required" || choice?.function?.name === name);
const answer = (request) => {
  const { name, parameters } = forced(request);
  const known = { city: "Bonn", celsius: 21, unit: "celsius", images: images(request.messages) };
  const entries = Object.entries(known).filter(([key]) => key in parameters.properties);
  return { toolCalls: [{ name, arguments: JSON.stringify(Object.fromEntries(entries)) }] };
};
mock.on({ predicate: forced }, answer);

// A tool that takes a picture: a call of it, then what the model sees of its output.
const shown = ({ messages }) => messages.at(-2)?.role === "tool" && images(messages.slice(-1)).length > 0;
mock.on({ predicate: shown }, looks);
const picture = { toolCalls: [{ name: "take_picture", arguments: "{}" }] };
mock.on({ userMessage: "take a picture", toolName: "take_picture", hasToolResult: false }, picture);

// Tools: a call for every city that is named, then what the tools said.
const weather = (request) => ({
  toolCalls: ["Bonn", "Kiel"]
    .filter((city) => said(request, "user").at(-1).includes(city))
    .map((city) => ({ name: "get_weather", arguments: JSON.stringify({ city, unit: "celsius" }) })),
});
mock.on({ userMessage: "weather in", toolName: "get_weather", hasToolResult: false }, weather);
const handOver = (request) => {
  const { name } = request.tools.map((tool) => tool.function).find(({ name }) => name.startsWith("transfer_"));
  return { toolCalls: [{ name, arguments: "{}" }] };
};
const whoami = (request) => ({ content: said(request, "system").join(" | ") || "Nobody." });
mock.on({ userMessage: "hand me over", hasToolResult: false }, handOver);
mock.on({ userMessage: "hand me over", hasToolResult: true }, whoami);
mock.on({ hasToolResult: true }, (request) => ({ content: `The tools say: ${said(request, "tool").join(" and ")}.` }));

// Structured output, reasoning, images, memory.
mock.on({ responseFormat: "json_schema" }, { content: JSON.stringify({ city: "Bonn", celsius: 21 }) });
mock.onMessage("six times seven", { content: "It is 42.", reasoning: "Six times seven is forty-two." });
mock.onMessage("how many images", looks);
mock.onMessage("what have I said", (request) => ({
  content: said(request, "user").slice(0, -1).join(" | ") || "Nothing.",
}));
mock.onMessage("who are you", whoami);

mock.on({}, { content: "Every run outlives its client." });

await mock.start();
console.log(mock.url);
