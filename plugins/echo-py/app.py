"""The agent `echo-py` does what `echo` does, in Python: it says the text of the last user message back, word by word.

With `metadata.delay_ms`, a string from "0" to "10000", it waits that many milliseconds between two words.
"""

import json
import re

import wit_world
from componentize_py_types import Err
from wit_world.imports import context, respond, tasks
from wit_world.imports.types import Description, Failure, FailureKind, Outcome_Completed, Usage

MAX_DELAY_MS = 10_000


class WitWorld(wit_world.WitWorld):
    def describe(self):
        return Description(
            name="echo-py",
            version="0.1.0",
            about="Repeats the last message of the user, word by word; metadata.delay_ms sets the milliseconds "
            "between two words.",
            config_schema=None,
            wants=None,
        )

    def run(self, turn):
        metadata = json.loads(context.request()).get("metadata") or {}
        delay = delay_ms(metadata.get("delay_ms"))
        words = pieces(user_text(json.loads(turn.input)))

        message = respond.Message()
        for n, word in enumerate(words):
            if n > 0 and delay > 0:
                tasks.sleep(delay)
            message.write(word)
        message.finish()

        tokens = sum(1 for word in words if word.strip())
        respond.report_usage(Usage(tokens, 0, 0, tokens, 0))
        return Outcome_Completed()


def delay_ms(text):
    """The time between two words: none unless the client asks for it."""
    if text is None:
        return 0
    # A number has one spelling: `+5` and `05` are refused like `5s`.
    if not re.fullmatch("0|[1-9][0-9]{0,4}", text) or int(text) > MAX_DELAY_MS:
        message = (
            f'metadata.delay_ms must be a whole number of milliseconds from "0" to "{MAX_DELAY_MS}", as a string; '
            f"it is {json.dumps(text)}"
        )
        raise Err(Failure(FailureKind.INVALID, "invalid_delay_ms", message, None))
    return int(text)


def user_text(items):
    """The text of the last message of the user, exactly as sent."""
    for item in reversed(items):
        if item.get("type", "message") == "message" and item.get("role") == "user":
            return "".join(part.get("text", "") for part in item["content"])
    return ""


def pieces(text):
    """The words of a text, each with the white space behind it; what stands before the first word goes with it."""
    return [piece for piece in re.findall(r"\A\s*\S*\s*|\S+\s*", text) if piece]
