"""Every call that the official clients offer for what the server does, streaming and not.

usage: suite.py ALLOD
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import anthropic
import ollama
import openai

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Server:
    """`allod serve` on a free port of this machine."""

    def __init__(self, allod, *models, ctx="512"):
        self.data = tempfile.TemporaryDirectory()
        command = [allod, "serve", *models, "--port", "0", "--ctx", ctx, "--data", self.data.name]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, f"the server said: {line}"
        self.url = found[0]
        self.openai = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.url, api_key="none", max_retries=0)
        self.ollama = ollama.Client(host=self.url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.data.cleanup()
        assert code == 0, f"the server ended with {code}"


def test_openai_models(s):
    names = [m.id for m in s.openai.models.list()]
    assert names == ["default"], names
    assert s.openai.models.retrieve("default").id == "default"
    try:
        s.openai.models.retrieve("nothing")
        raise AssertionError("found nothing")
    except openai.NotFoundError as e:
        assert e.code == "model_not_found"


def test_openai_chat(s):
    ask = dict(model="default", messages=[{"role": "user", "content": "a brave fish"}], max_tokens=24, seed=5)
    whole = s.openai.chat.completions.create(**ask)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(s.openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    # The helper takes an answer that was cut at max_tokens for a failure, so this one ends at its first full stop.
    short = {**ask, "max_tokens": 200, "stop": ["."]}
    with s.openai.chat.completions.stream(**short) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.content
    assert streamed == s.openai.chat.completions.create(**short).choices[0].message.content
    raw = s.openai.chat.completions.with_raw_response.create(**ask)
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content == text


def test_openai_chat_fields(s):
    ask = dict(model="default", messages=[{"role": "user", "content": "a fish"}], max_tokens=8)
    several = s.openai.chat.completions.create(**ask, n=3, seed=1, logprobs=True, top_logprobs=2)
    assert [c.index for c in several.choices] == [0, 1, 2]
    for choice in several.choices:
        for token in choice.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 2
            assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    second = s.openai.chat.completions.create(**ask, seed=2)
    assert second.choices[0].message.content == several.choices[1].message.content
    stopped = s.openai.chat.completions.create(**{**ask, "max_tokens": 100}, stop=["."], temperature=0)
    assert "." not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"
    extra = s.openai.chat.completions.create(**ask, extra_body={"top_k": 1, "min_p": 0.0, "return_token_ids": True})
    greedy = s.openai.chat.completions.create(**ask, temperature=0)
    assert extra.choices[0].message.content == greedy.choices[0].message.content
    try:
        s.openai.chat.completions.create(**ask, extra_body={"no_such_field": 1})
        raise AssertionError("an unknown field was ignored")
    except openai.BadRequestError as e:
        assert e.param == "no_such_field" and e.code == "unknown_parameter"


def test_openai_completions(s):
    ask = dict(model="default", prompt="Once upon a time", max_tokens=12, temperature=0)
    whole = s.openai.completions.create(**ask, logprobs=2)
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    text = "".join(c.choices[0].text for c in s.openai.completions.create(**ask, stream=True))
    assert text == whole.choices[0].text
    echoed = s.openai.completions.create(**ask, echo=True)
    assert echoed.choices[0].text == "Once upon a time" + text
    many = s.openai.completions.create(**{**ask, "prompt": ["Once", "The dog"]}, n=2)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]


def test_openai_embeddings(s):
    made = s.openai.embeddings.create(model="default", input=["a fish", "a dog"])
    plain = s.openai.embeddings.create(model="default", input="a fish", encoding_format="float")
    assert len(made.data) == 2 and made.usage.prompt_tokens > 0
    assert made.data[0].embedding == plain.data[0].embedding
    short = s.openai.embeddings.create(model="default", input="a fish", dimensions=8)
    assert abs(sum(x * x for x in short.data[0].embedding) - 1) < 1e-5


def test_openai_files_and_batches(s):
    request = lambda i: {
        "custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "default", "messages": [{"role": "user", "content": f"fish {i}"}], "max_tokens": 6, "seed": i},
    }
    lines = "\n".join(json.dumps(request(i)) for i in range(12)).encode()
    file = s.openai.files.create(file=("in.jsonl", lines), purpose="batch")
    assert (file.object, file.bytes, file.filename) == ("file", len(lines), "in.jsonl")
    assert s.openai.files.retrieve(file.id).id == file.id
    assert s.openai.files.content(file.id).read() == lines
    kept = s.openai.files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert kept.expires_at == kept.created_at + 3600
    assert {f.id for f in s.openai.files.list(limit=1)} == {file.id, kept.id}, "pages follow one another"
    assert s.openai.files.delete(kept.id).deleted
    batch = s.openai.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    for _ in range(600):
        batch = s.openai.batches.retrieve(batch.id)
        if batch.status in ("completed", "failed"):
            break
        time.sleep(0.1)
    assert (batch.status, batch.request_counts.completed, batch.metadata) == ("completed", 12, {"a": "b"}), batch
    answers = [json.loads(line) for line in s.openai.files.content(batch.output_file_id).text.splitlines()]
    assert {a["custom_id"] for a in answers} == {f"r{i}" for i in range(12)}
    for answer in answers:
        body = request(int(answer["custom_id"][1:]))["body"]
        alone = s.openai.chat.completions.create(**body)
        assert answer["response"]["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
    assert [b.id for b in s.openai.batches.list(limit=1)] == [batch.id]
    long = b"\n".join(json.dumps({**request(i), "body": {**request(i)["body"], "max_tokens": 400}}).encode() for i in range(300))
    file = s.openai.files.create(file=("long.jsonl", long), purpose="batch")
    batch = s.openai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert s.openai.batches.cancel(batch.id).status == "cancelling"
    for _ in range(600):
        if s.openai.batches.retrieve(batch.id).status == "cancelled":
            break
        time.sleep(0.1)
    assert s.openai.batches.retrieve(batch.id).status == "cancelled"


def test_openai_background(s):
    made = s.openai.responses.create(model="default", input="a fish", background=True, max_output_tokens=8)
    assert made.status == "queued"
    for _ in range(600):
        made = s.openai.responses.retrieve(made.id)
        if made.status not in ("queued", "in_progress"):
            break
        time.sleep(0.05)
    assert made.status in ("completed", "incomplete") and made.output_text, made
    events = list(s.openai.responses.create(model="default", input="a fish", background=True, stream=True, max_output_tokens=8))
    id = events[0].response.id
    again = list(s.openai.responses.retrieve(id, stream=True, starting_after=3))
    assert [e.sequence_number for e in again] == [e.sequence_number for e in events[4:]]
    long = s.openai.responses.create(model="default", input="a fish", background=True, max_output_tokens=480)
    assert s.openai.responses.cancel(long.id).status in ("cancelled", "completed", "incomplete")
    s.openai.responses.delete(id)


def test_anthropic(s):
    ask = dict(model="default", max_tokens=20, messages=[{"role": "user", "content": "a fish"}])
    # This client no longer names temperature itself.
    ask["extra_body"] = {"temperature": 0}
    whole = s.anthropic.messages.create(**ask, system="Be kind.")
    assert whole.type == "message" and whole.stop_reason in ("end_turn", "max_tokens")
    with s.anthropic.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text == whole.content[0].text
    events = [e.type for e in s.anthropic.messages.create(**ask, stream=True)]
    assert events[0] == "message_start" and events[-1] == "message_stop"
    counted = s.anthropic.messages.count_tokens(model="default", messages=ask["messages"])
    assert counted.input_tokens > 0
    stopped = s.anthropic.messages.create(**{**ask, "max_tokens": 100}, stop_sequences=["."])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ".")
    assert [m.id for m in s.anthropic.models.list()] == ["default"]
    assert s.anthropic.models.retrieve("default").id == "default"
    try:
        s.anthropic.messages.create(**{**ask, "extra_body": {"no_such_field": 1}})
        raise AssertionError("an unknown field was ignored")
    except anthropic.BadRequestError as e:
        assert "no_such_field" in e.message


def test_ollama(s):
    options = {"temperature": 0, "num_predict": 16}
    whole = s.ollama.generate("default", "a fish", options=options)
    assert whole.done and whole.eval_count > 0 and whole.total_duration > 0
    text = "".join(c.response for c in s.ollama.generate("default", "a fish", options=options, stream=True))
    assert text == whole.response
    chat = s.ollama.chat("default", [{"role": "user", "content": "a fish"}], options=options, logprobs=True, top_logprobs=2)
    assert chat.message.content == text and len(chat.logprobs) == chat.eval_count
    parts = s.ollama.chat("default", [{"role": "user", "content": "a fish"}], options=options, stream=True)
    assert "".join(p.message.content for p in parts) == text
    assert len(s.ollama.embed("default", ["a fish", "a dog"]).embeddings) == 2
    assert len(s.ollama.embeddings("default", "a fish").embedding) > 8
    assert [m.model for m in s.ollama.list().models] == ["default:latest"]
    assert s.ollama.ps().models[0].model == "default:latest"
    assert "completion" in s.ollama.show("default").capabilities


def test_ollama_models(s):
    made = s.ollama.create("calm", from_="default", system="Be calm.", parameters={"temperature": 0, "num_predict": 4})
    assert made.status == "success"
    assert [p.status for p in s.ollama.create("calm", from_="default", stream=True)][-1] == "success"
    assert s.ollama.copy("calm", "calmer").status == "success"
    assert s.ollama.delete("calm").status == "success"
    assert "calmer:latest" in [m.model for m in s.ollama.list().models]
    digest = s.ollama.create_blob(str(ROOT / "crates/allod/assets/allod-stories.gguf"))
    assert s.ollama.create("filed", files={"model.gguf": digest}).status == "success"
    ask = dict(prompt="a fish", options={"temperature": 0, "num_predict": 8})
    assert s.ollama.generate("filed", **ask).response == s.ollama.generate("default", **ask).response
    for model in ("filed", "calmer"):
        s.ollama.delete(model)
    for call in (s.ollama.pull, s.ollama.push):
        try:
            call("anything")
            raise AssertionError("there is no registry")
        except ollama.ResponseError as e:
            assert e.status_code == 501


# How the model of the tests below writes calls and reasoning: Hermes' way, as many models do. No model this small calls
# tools by itself, so calls are forced.
TEMPLATE = """\
{% for tool in tools or [] %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{% for m in messages %}\
{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{{ '\\n' }}{% else %}\
{{ m.role }}: {% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}{{ '\\n' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{{ '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}assistant: <think>
{% if enable_thinking is defined and not enable_thinking %}{{ '\\n' }}</think>

{% endif %}{% endif %}"""

WEATHER = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}, "exact": {"type": "boolean"}},
    "required": ["unit", "exact"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": WEATHER}}]
HI = [{"role": "user", "content": "hi"}]
QUIET = {"chat_template_kwargs": {"enable_thinking": False}}


def fits(arguments):
    return arguments["unit"] in ("celsius", "kelvin") and isinstance(arguments["exact"], bool) and len(arguments) == 2


def test_openai_tools(s):
    s.ollama.create("tooled", from_="default", template=TEMPLATE)
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        ask = dict(model="tooled", messages=HI, tools=TOOLS, tool_choice=choice, max_tokens=100, seed=2)
        ask.update(parallel_tool_calls=False, extra_body=QUIET)
        whole = s.openai.chat.completions.create(**ask).choices[0]
        [call] = whole.message.tool_calls
        assert whole.finish_reason == "tool_calls" and whole.message.content is None
        assert call.function.name == "get_weather" and fits(json.loads(call.function.arguments))
        arguments, ids = "", []
        for chunk in s.openai.chat.completions.create(**ask, stream=True):
            for delta in chunk.choices[0].delta.tool_calls or []:
                assert delta.index == 0
                ids += [delta.id] if delta.id else []
                arguments += delta.function.arguments or ""
        assert arguments == call.function.arguments and len(ids) == 1
        with s.openai.chat.completions.stream(**ask) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls[0].function
        assert streamed.arguments == call.function.arguments and streamed.name == "get_weather"
        # The result goes back, and the model answers.
        talk = HI + [whole.message, {"role": "tool", "tool_call_id": call.id, "content": "21"}]
        answer = s.openai.chat.completions.create(model="tooled", messages=talk, tools=TOOLS, tool_choice="none", max_tokens=8, extra_body=QUIET)
        assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls
    try:
        s.openai.chat.completions.create(model="tooled", messages=HI, extra_body={"functions": []})
        raise AssertionError("functions were ignored")
    except openai.BadRequestError as e:
        assert e.param == "functions"


def test_openai_reasoning(s):
    ask = dict(model="tooled", messages=HI, max_tokens=80, seed=4, extra_body={"thinking_token_budget": 20})
    whole = s.openai.chat.completions.create(**ask)
    message = whole.choices[0].message
    assert message.reasoning_content and message.content and "think>" not in message.content
    assert 0 < whole.usage.completion_tokens_details.reasoning_tokens <= 20
    deltas = [c.choices[0].delta for c in s.openai.chat.completions.create(**ask, stream=True)]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == message.reasoning_content
    assert "".join(d.content or "" for d in deltas) == message.content
    none = s.openai.chat.completions.create(model="tooled", messages=HI, max_tokens=8, reasoning_effort="none")
    assert getattr(none.choices[0].message, "reasoning_content", None) is None
    try:
        s.openai.chat.completions.create(model="default", messages=HI, reasoning_effort="high")
        raise AssertionError("this model does not reason")
    except openai.BadRequestError as e:
        assert e.param == "reasoning_effort"


def test_openai_responses(s):
    ask = dict(model="default", input="a fish", max_output_tokens=16, temperature=0)
    whole = s.openai.responses.create(**ask)
    with s.openai.responses.stream(**ask) as stream:
        events = list(stream)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    # The helper's final response is only that of an answer that was not cut.
    assert events[-1].type == "response.incomplete" and events[-1].response.output_text == text == whole.output_text
    assert s.openai.responses.retrieve(whole.id).output_text == text
    assert [i.type for i in s.openai.responses.input_items.list(whole.id)] == ["message"]
    more = s.openai.responses.create(**{**ask, "input": "and a dog"}, previous_response_id=whole.id)
    assert more.usage.input_tokens > whole.usage.input_tokens
    behind = s.openai.responses.create(**{**ask, "max_output_tokens": 400, "temperature": 1}, background=True)
    assert s.openai.responses.cancel(behind.id).status in ("cancelled", "completed")
    s.openai.responses.delete(whole.id)
    tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}]
    ask = dict(model="tooled", input="hi", tools=tools, tool_choice="required", reasoning={"effort": "none"})
    called = s.openai.responses.create(**ask, parallel_tool_calls=False)
    [call] = [o for o in called.output if o.type == "function_call"]
    assert fits(json.loads(call.arguments)), call
    with s.openai.responses.stream(**ask, parallel_tool_calls=False) as stream:
        kinds = [e.type for e in stream]
        assert stream.get_final_response().output[0].type == "function_call"
    assert "response.function_call_arguments.done" in kinds and kinds[-1] == "response.completed"
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "21"}]
    more = dict(input=result, previous_response_id=called.id, tool_choice="none", max_output_tokens=8)
    assert s.openai.responses.create(**{**ask, **more}).output_text


def test_openai_decisions(s):
    made = s.openai.decisions.create(
        model="default",
        input="a fish swims",
        questions=[
            {"type": "choice", "name": "kind", "instructions": "Which?", "choices": [{"value": "fish"}, {"value": True}]},
            {"type": "predicate", "instructions": "It swims."},
            {"type": "score", "instructions": "How wet?", "levels": [{"label": "dry"}, {"label": "wet"}]},
        ],
    )
    assert [a.type for a in made.answers] == ["choice", "predicate", "score"]
    assert abs(sum(p.probability for p in made.answers[0].probabilities) - 1) < 1e-9 and made.answers[0].name == "kind"


def test_anthropic_tools(s):
    tools = [{"name": "get_weather", "description": "Weather.", "input_schema": WEATHER}]
    off = {"thinking": {"type": "disabled"}}
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}):
        ask = dict(model="tooled", max_tokens=100, messages=HI, tools=tools, tool_choice=choice, **off)
        ask["extra_body"] = {"temperature": 0}
        whole = s.anthropic.messages.create(**ask)
        [block] = whole.content
        assert whole.stop_reason == "tool_use" and block.type == "tool_use" and fits(block.input)
        with s.anthropic.messages.stream(**ask) as stream:
            parts = [e.partial_json for e in stream if e.type == "input_json"]
            assert stream.get_final_message().content[0].input == block.input == json.loads("".join(parts))
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "21"}
        talk = HI + [{"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
        answer = s.anthropic.messages.create(
            model="tooled", max_tokens=8, messages=talk, tools=tools, tool_choice={"type": "none"}, **off
        )
        assert answer.content[0].type == "text"
        assert s.anthropic.messages.count_tokens(model="tooled", messages=talk, tools=tools, **off).input_tokens > 40
    thought = dict(model="tooled", max_tokens=40, messages=HI, thinking={"type": "adaptive"})
    with s.anthropic.messages.stream(**thought) as stream:
        [block] = stream.get_final_message().content
    assert block.type == "thinking" and block.thinking and block.signature
    try:
        s.anthropic.messages.create(**{**thought, "thinking": {"type": "enabled", "budget_tokens": 100}})
        raise AssertionError("the budget is too small")
    except anthropic.BadRequestError as e:
        assert "budget_tokens" in e.message


def test_ollama_tools(s):
    # Its clients cannot force a call: an answer in JSON or a call is asked for, until a seed gives the call.
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    for seed in range(40):
        ask = dict(model="tooled", messages=HI, tools=TOOLS, think=False, format=schema)
        ask["options"] = {"seed": seed, "num_predict": 200, "temperature": 2}
        whole = s.ollama.chat(**ask)
        if whole.done_reason == "length":
            continue
        if whole.message.tool_calls:
            break
        assert isinstance(json.loads(whole.message.content)["ok"], bool)
    call = whole.message.tool_calls[0].function
    # The client leaves additionalProperties out of what it sends, so there may be more.
    assert call.name == "get_weather" and fits({name: call.arguments[name] for name in WEATHER["required"]})
    parts = [p.message.tool_calls for p in s.ollama.chat(**ask, stream=True) if p.message.tool_calls]
    assert parts[0][0].function.arguments == call.arguments
    talk = HI + [whole.message, {"role": "tool", "content": "21", "tool_name": "get_weather"}]
    options = {"num_predict": 60, "seed": 1}
    assert s.ollama.chat("tooled", talk, tools=TOOLS, think=False, options=options).message.content
    thought = s.ollama.chat("tooled", HI, think=True, options=options).message
    assert thought.thinking
    parts = list(s.ollama.chat("tooled", HI, think=True, options=options, stream=True))
    assert "".join(p.message.thinking or "" for p in parts) == thought.thinking
    assert s.ollama.generate("tooled", "hi", think=True, options=options).thinking
    try:
        s.ollama.chat("default", HI, think=True)
        raise AssertionError("this model does not think")
    except ollama.ResponseError as e:
        assert e.status_code == 400
    decided = s.ollama.systemone("default", "a fish", {"q": {"type": "noul", "instructions": "Is it one?"}})
    assert 0 <= decided.answers["q"].noul <= 1


def known_answers(allod):
    """llama.cpp's stories260K through all three dialects, where its weights are."""
    data = pathlib.Path(os.environ.get("ALLOD_TEST_DATA", ROOT / "../shared/data")) / "weights"
    if not data.is_dir():
        print("skipped: known answers (no weights; ALLOD_TEST_DATA names their folder)")
        return
    text = json.loads((data / "known_answers_llama2c.json").read_text())["stories260K"]["text"]
    begin = text[1:].split(" named")[0]
    rest = text[1 + len(begin) : 200]
    with Server(allod, str(data / "stories260K/stories260K.gguf")) as s:
        message = [{"role": "user", "content": begin}]
        ask = dict(model="stories260K", temperature=0, max_tokens=100)
        answers = [
            s.openai.completions.create(**ask, prompt=begin).choices[0].text,
            s.openai.chat.completions.create(**ask, messages=message).choices[0].message.content,
            s.anthropic.messages.create(
                model="stories260K", max_tokens=100, messages=message, extra_body={"temperature": 0}
            ).content[0].text,
            s.ollama.generate("stories260K", begin, options={"temperature": 0, "num_predict": 100}).response,
            s.ollama.chat("stories260K", message, options={"temperature": 0, "num_predict": 100}).message.content,
        ]
    for answer in answers:
        assert answer.startswith(rest), (answer, rest)
    print("passed: known answers")


def main():
    allod = sys.argv[1]
    with Server(allod, "default") as server:
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                test(server)
                print("passed:", name)
    known_answers(allod)


if __name__ == "__main__":
    main()
