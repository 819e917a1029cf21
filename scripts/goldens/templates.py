"""Renders conversations with Transformers' own renderer for every chat template in a folder.

Writes `templates.jsonl`: first the conversations, then one line a template with, for every conversation, the FNV-1a-64
hash and the length in characters of the text (and the spans of `{% generation %}` blocks), or what the renderer said
when it refused: messages of `raise_exception` word for word, other errors by their kind.

    python scripts/goldens/templates.py ../shared/data/templates crates/text/tests/it/goldens/templates.jsonl

Made with transformers 5.23, jinja2 3.1.6.
"""

import copy
import datetime
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils as utils


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 7, 14, 5, 9)


utils.datetime = Frozen

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place — now & later. Say \"where\", <b>not</b> 'when'.",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 1e16},
                "exact": {"type": "boolean", "default": False},
                "at": {"type": ["number", "null"], "description": None, "default": 1.5},
                "tags": {"type": "array", "items": {"type": "string"}},
                "area": {
                    "type": "object",
                    "properties": {"radius": {"type": "number", "default": 1e-05}},
                    "required": ["radius"],
                },
            },
            "required": ["location"],
        },
        "return": {"type": "string", "description": "A report"},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


PLAIN = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City"},
                "days": {"type": "integer", "description": "How many"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Which"},
            },
            "required": ["location"],
        },
    },
}
# Variables that some templates need beside the messages.
ASKED = {"datetime": "2026-03-07", "date_string": "07 Mar 2026", "functions": ""}


def call(name, arguments, id="call12345"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in one line."}
HELLO = {"role": "user", "content": "Hello, who are you?"}
UNICODE = "Grüße 你好 🦙 👩🏽‍💻 \"quotes\" 'single' <tag> & \\ back\ttab\r\nnew\u2028line {{ x }} {% if %} <|im_end|>"
ARGS = {"location": "Zürich", "days": 3, "exact": True, "at": None, "unit": "celsius"}

CONVERSATIONS = {
    "user": {"messages": [HELLO]},
    "system": {"messages": [SYSTEM, HELLO]},
    "turns": {
        "messages": [
            SYSTEM,
            HELLO,
            {"role": "assistant", "content": "I am a model."},
            {"role": "user", "content": "  And what do you do?  "},
            {"role": "assistant", "content": "\n\nI answer.\n"},
            {"role": "user", "content": "Good."},
        ]
    },
    "answered": {"messages": [HELLO, {"role": "assistant", "content": "I am a model."}]},
    "empty_system": {"messages": [{"role": "system", "content": ""}, HELLO]},
    "unicode": {"messages": [{"role": "system", "content": UNICODE}, {"role": "user", "content": UNICODE}]},
    "parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "You are terse."}]},
            {"role": "user", "content": [{"type": "text", "text": "First part."}, {"type": "text", "text": " Second."}]},
        ]
    },
    "image": {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]},
    "tools": {"messages": [SYSTEM, HELLO], "tools": [WEATHER, TIME]},
    "tools_no_system": {"messages": [HELLO], "tools": [WEATHER]},
    "tool_call": {
        "messages": [
            {"role": "user", "content": "Weather in Zürich?"},
            {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGS)]},
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"sky": "clear", "t": 21.0}'},
        ],
        "tools": [WEATHER, TIME],
    },
    "tool_calls": {
        "messages": [
            SYSTEM,
            {"role": "user", "content": "Weather and time?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [call("get_weather", ARGS, "abcdefgh1"), call("get_time", {}, "abcdefgh2")],
            },
            {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "clear"},
            {"role": "tool", "tool_call_id": "abcdefgh2", "name": "get_time", "content": "noon"},
            {"role": "assistant", "content": "Clear, at noon."},
            {"role": "user", "content": "Thanks."},
        ],
        "tools": [WEATHER, TIME],
    },
    "tool_call_text": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call("get_weather", json.dumps(ARGS))]},
            {"role": "tool", "tool_call_id": "call12345", "content": "clear"},
        ],
        "tools": [WEATHER],
    },
    "tools_plain": {"messages": [SYSTEM, HELLO], "tools": [PLAIN], "kwargs": ASKED},
    "tool_calls_plain": {
        "messages": [
            SYSTEM,
            {"role": "user", "content": "Weather in Bern and Basel?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    call("get_weather", {"location": "Bern"}, "abcdefgh1"),
                    call("get_weather", {"location": "Basel", "days": 2, "tags": ["a", "b"]}, "abcdefgh2"),
                ],
            },
            {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "clear"},
            {"role": "tool", "tool_call_id": "abcdefgh2", "name": "get_weather", "content": "rain"},
        ],
        "tools": [PLAIN],
        "kwargs": ASKED,
    },
    "tool_call_silent": {
        "messages": [
            {"role": "user", "content": "Weather in Bern?"},
            {"role": "assistant", "tool_calls": [call("get_weather", {"location": "Bern"})]},
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "clear"},
        ],
        "tools": [PLAIN],
        "kwargs": ASKED,
    },
    "reasoning": {
        "messages": [
            HELLO,
            {"role": "assistant", "reasoning_content": "They greet me.\nI answer.", "content": "Hi."},
            {"role": "user", "content": "Again?"},
            {"role": "assistant", "reasoning_content": "Again, then.", "content": "Hi again."},
        ]
    },
    "think_tags": {
        "messages": [
            HELLO,
            {"role": "assistant", "content": "<think>\nThey greet me.\n</think>\n\nHi."},
            {"role": "user", "content": "Again?"},
        ]
    },
    "reasoning_call": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "reasoning_content": "I need the tool.",
                "content": "",
                "tool_calls": [call("get_weather", {"location": "Bern"})],
            },
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "rain"},
        ],
        "tools": [WEATHER],
    },
    "thinking_off": {"messages": [SYSTEM, HELLO], "kwargs": {"enable_thinking": False, "thinking": False}},
    "thinking_on": {"messages": [SYSTEM, HELLO], "kwargs": {"enable_thinking": True, "thinking": True}},
    "effort": {"messages": [HELLO], "kwargs": {"reasoning_effort": "high"}},
    "documents": {
        "messages": [HELLO],
        "documents": [{"title": "One", "text": "First."}, {"title": "Two", "text": "Second."}],
    },
    "developer": {"messages": [{"role": "developer", "content": "Be kind."}, HELLO]},
    "bad_order": {"messages": [HELLO, HELLO, {"role": "assistant", "content": "Yes?"}]},
    "bad_role": {"messages": [HELLO, {"role": "oracle", "content": "Hm."}]},
    "no_messages": {"messages": []},
}
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>", "unk_token": "<UNK>"}
FULL = {("Qwen-Qwen3-0.6B.jinja", "tool_calls"), ("meta-llama-Llama-3.1-8B-Instruct.jinja", "tool_call")}
FULL |= {("openai-gpt-oss-120b.jinja", "tool_call"), ("google-gemma-2-2b-it.jinja", "answered")}


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def render(source, case, prompt):
    case = copy.deepcopy(case)
    arguments = {**TOKENS, **case.get("kwargs", {})}
    spans = "generation %}" in source or "generation -%}" in source
    texts, found = utils.render_jinja_template(
        conversations=[case["messages"]],
        tools=case.get("tools"),
        documents=case.get("documents"),
        chat_template=source,
        return_assistant_tokens_mask=spans,
        add_generation_prompt=prompt,
        **arguments,
    )
    return texts[0], (found[0] if spans else [])


def golden(name, source, label, case, prompt):
    try:
        text, spans = render(source, case, prompt)
    except Exception as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"raise": str(error)}
        return {"error": type(error).__name__}
    entry = {"hash": fnv1a(text), "chars": len(text)}
    if spans:
        entry["spans"] = spans
    if (name, label) in FULL:
        entry["text"] = text
    return entry


def main(folder, out):
    with open(out, "w", encoding="utf-8", newline="\n") as file:
        head = {"tokens": TOKENS, "unix_seconds": 1772892309, "conversations": CONVERSATIONS}
        file.write(json.dumps(head, ensure_ascii=False, separators=(",", ":")) + "\n")
        for path in sorted(pathlib.Path(folder).glob("*.jinja")):
            with open(path, encoding="utf-8", newline="") as template:
                source = template.read()
            cases = {}
            for label, case in CONVERSATIONS.items():
                cases[label] = [golden(path.name, source, label, case, prompt) for prompt in (False, True)]
                if cases[label][0] == cases[label][1]:
                    cases[label].pop()
            line = {"template": path.name, "cases": cases}
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
