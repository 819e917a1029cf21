// What the official clients from npm offer for what the server does, streaming and not.
//
// usage: node suite.mjs ALLOD, where `openai` and `ollama` are installed beside it or below NODE_PATH

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.argv[3] ?? process.cwd(), "x.js"));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const { default: OpenAI } = await load("openai");
const { Ollama } = await load("ollama");

const TEMPLATE = `{% for tool in tools or [] %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{% for m in messages %}\
{{ m.role }}: {{ m.content or '' }}{% for call in m.tool_calls or [] %}{{ '\\n' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: <think>
{% if enable_thinking is defined and not enable_thinking %}{{ '\\n' }}</think>

{% endif %}{% endif %}`;
const parameters = {
  type: "object",
  properties: { unit: { type: "string", enum: ["celsius", "kelvin"] } },
  required: ["unit"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather.", parameters } }];
const messages = [{ role: "user", content: "a fish" }];
const fits = (call) => ["celsius", "kelvin"].includes(call.unit) && Object.keys(call).length === 1;
const all = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

const tests = {
  async models({ openai, ollama }) {
    assert.deepEqual((await openai.models.list()).data.map((m) => m.id), ["default"]);
    await assert.rejects(openai.models.retrieve("nothing"), { status: 404 });
    assert.equal((await ollama.list()).models[0].name, "default:latest");
    assert.ok((await ollama.show({ model: "default" })).capabilities.includes("completion"));
    assert.equal((await ollama.create({ model: "tooled", from: "default", template: TEMPLATE })).status, "success");
    assert.ok((await ollama.version()).version);
  },
  async chat({ openai }) {
    const ask = { model: "default", messages, max_tokens: 16, seed: 5 };
    const whole = await openai.chat.completions.create(ask);
    const chunks = await all(await openai.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
    const text = chunks.map((c) => c.choices[0]?.delta.content ?? "").join("");
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
    const helper = openai.chat.completions.stream(ask);
    assert.equal(await helper.finalContent(), text);
    await assert.rejects(openai.chat.completions.create({ ...ask, no_such_field: 1 }), { status: 400, param: "no_such_field" });
  },
  async completions({ openai }) {
    const ask = { model: "default", prompt: "Once", max_tokens: 8, temperature: 0 };
    const whole = await openai.completions.create({ ...ask, logprobs: 1 });
    const parts = await all(await openai.completions.create({ ...ask, stream: true }));
    assert.equal(parts.map((p) => p.choices[0].text).join(""), whole.choices[0].text);
    assert.equal((await openai.completions.create({ ...ask, best_of: 3, temperature: 1 })).choices.length, 1);
  },
  async tools({ openai }) {
    const ask = { model: "tooled", messages, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 80, seed: 1, reasoning_effort: "none" };
    const whole = (await openai.chat.completions.create(ask)).choices[0];
    const call = whole.message.tool_calls[0];
    assert.equal(whole.finish_reason, "tool_calls");
    assert.ok(fits(JSON.parse(call.function.arguments)));
    const chunks = await all(await openai.chat.completions.create({ ...ask, stream: true }));
    const pieces = chunks.flatMap((c) => c.choices[0].delta.tool_calls ?? []);
    assert.equal(pieces.map((p) => p.function.arguments).join(""), call.function.arguments);
    const talk = [...messages, whole.message, { role: "tool", tool_call_id: call.id, content: "21" }];
    const answer = await openai.chat.completions.create({ ...ask, messages: talk, tool_choice: "none", max_tokens: 8 });
    assert.ok(answer.choices[0].message.content);
  },
  async reasoning({ openai, ollama }) {
    const ask = { model: "tooled", messages, max_tokens: 60, seed: 1, thinking_token_budget: 16 };
    const message = (await openai.chat.completions.create(ask)).choices[0].message;
    assert.ok(message.reasoning_content && message.content);
    const chunks = await all(await openai.chat.completions.create({ ...ask, stream: true }));
    assert.equal(chunks.map((c) => c.choices[0].delta.reasoning_content ?? "").join(""), message.reasoning_content);
    const thought = await ollama.chat({ model: "tooled", messages, think: true, options: { num_predict: 20 } });
    assert.ok(thought.message.thinking);
  },
  async responses({ openai }) {
    const ask = { model: "default", input: "a fish", max_output_tokens: 12, temperature: 0 };
    const whole = await openai.responses.create(ask);
    const events = await all(await openai.responses.create({ ...ask, stream: true }));
    const text = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
    assert.equal(text, whole.output_text);
    assert.equal((await openai.responses.retrieve(whole.id)).output_text, text);
    await openai.responses.delete(whole.id);
    const called = await openai.responses.create({
      model: "tooled", input: "hi", tool_choice: "required", parallel_tool_calls: false, reasoning: { effort: "none" },
      tools: [{ type: "function", name: "get_weather", parameters, strict: true }],
    });
    assert.ok(fits(JSON.parse(called.output[0].arguments)));
  },
  async embeddings({ openai, ollama }) {
    const made = await openai.embeddings.create({ model: "default", input: ["a fish", "a dog"] });
    assert.equal(made.data.length, 2);
    assert.equal((await ollama.embed({ model: "default", input: "a fish" })).embeddings.length, 1);
  },
  async ollama({ ollama }) {
    const options = { temperature: 0, num_predict: 12 };
    const whole = await ollama.generate({ model: "default", prompt: "a fish", options });
    const parts = await all(await ollama.generate({ model: "default", prompt: "a fish", options, stream: true }));
    assert.equal(parts.map((p) => p.response).join(""), whole.response);
    const chat = await ollama.chat({ model: "default", messages, options });
    const lines = await all(await ollama.chat({ model: "default", messages, options, stream: true }));
    assert.equal(lines.map((p) => p.message.content).join(""), chat.message.content);
    assert.ok((await ollama.ps()).models.some((m) => m.name === "default:latest"));
    assert.equal((await ollama.copy({ source: "tooled", destination: "other" })).status, "success");
    assert.equal((await ollama.delete({ model: "other" })).status, "success");
    await assert.rejects(ollama.pull({ model: "anything" }), { status_code: 501 });
  },
};

const data = mkdtempSync(join(tmpdir(), "allod-"));
const server = spawn(process.argv[2], ["serve", "default", "--port", "0", "--ctx", "512", "--data", data], {
  stdio: ["ignore", "ignore", "pipe"],
});
try {
  const url = await new Promise((found, lost) => {
    server.stderr.on("data", (text) => {
      const match = String(text).match(/http:\/\/127\.0\.0\.1:\d+/);
      if (match) found(match[0]);
    });
    server.on("exit", (code) => lost(new Error(`the server ended with ${code}`)));
  });
  const clients = {
    openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 }),
    ollama: new Ollama({ host: url }),
  };
  for (const [name, test] of Object.entries(tests)) {
    await test(clients);
    console.log("passed:", name);
  }
} finally {
  server.removeAllListeners("exit");
  server.kill("SIGTERM");
  await new Promise((done) => server.on("exit", done));
  rmSync(data, { recursive: true, force: true });
}
