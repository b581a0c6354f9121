// The upstream model: aimock, an independent implementation of the Chat Completions API.
// What it says depends on what the last message of the user says. Prints its address when it listens.

import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, chunkSize: 4, logLevel: "warn" });

const text = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
const said = (request, role) =>
  request.messages.filter((message) => message.role === role).map((message) => text(message.content));

// What goes wrong.
mock.onMessage("an overloaded model", {
  error: { message: "The model is overloaded.", type: "server_error" },
  status: 503,
});
const limited = { error: { message: "Slow down.", type: "rate_limit_error" }, status: 429 };
mock.onMessage("a limited model", { ...limited, retryAfter: 0 });
mock.onMessage("a model for tomorrow", { ...limited, retryAfter: 86_400 });
mock.onMessage("a rejected call", {
  error: { message: "No such parameter.", type: "invalid_request_error" },
  status: 400,
});
mock.onMessage("a cut answer", { content: "This answer is cut in the middle of it all." }, { truncateAfterChunks: 5, latency: 20 });
mock.onMessage("a silent model", { content: "Too late." }, { streamingProfile: { ttft: 600_000 } });
const stall = { ttftMs: 0, interChunkDelaysMs: [0, 0, 600_000] };
mock.onMessage("a stalled answer", { content: "This answer stalls." }, { recordedTimings: stall });
mock.onMessage("a slow answer", { content: "Slow, but whole." }, { streamingProfile: { ttft: 200, tps: 10 } });
mock.onMessage("a long answer", { content: "This answer is too", finishReason: "length" });
mock.onMessage("a filtered answer", { content: "This answer is", finishReason: "content_filter" });

// Tools: a call for every city that is named, then what the tools said.
const weather = (request) => ({
  toolCalls: ["Bonn", "Kiel"]
    .filter((city) => said(request, "user").at(-1).includes(city))
    .map((city) => ({ name: "get_weather", arguments: JSON.stringify({ city, unit: "celsius" }) })),
});
mock.on({ userMessage: "weather in", toolName: "get_weather", hasToolResult: false }, weather);
mock.on({ userMessage: "hand me over", hasToolResult: false }, (request) => ({
  toolCalls: [{ name: request.tools.find((tool) => tool.function.name.startsWith("transfer_")).function.name, arguments: "{}" }],
}));
mock.on({ userMessage: "hand me over", hasToolResult: true }, (request) => ({ content: said(request, "system").join(" | ") }));
mock.on({ hasToolResult: true }, (request) => ({ content: `The tools say: ${said(request, "tool").join(" and ")}.` }));

// Structured output, reasoning, images, memory.
mock.on({ responseFormat: "json_schema" }, { content: JSON.stringify({ city: "Bonn", celsius: 21 }) });
mock.onMessage("six times seven", { content: "It is 42.", reasoning: "Six times seven is forty-two." });
mock.onMessage("how many images", (request) => {
  const images = request.messages.flatMap((message) => message.content).filter((part) => part?.type === "image_url");
  return { content: `I see ${images.length}: ${images.map((part) => part.image_url.url).join(" ")}` };
});
mock.onMessage("what have I said", (request) => ({ content: said(request, "user").slice(0, -1).join(" | ") || "Nothing." }));
mock.onMessage("who are you", (request) => ({ content: said(request, "system").join(" | ") || "Nobody." }));

mock.on({}, { content: "Every run outlives its client." });

await mock.start();
console.log(mock.url);
