"""The agent `{{name}}` counts the words that it is told.

What it may call is in `wit/`. Interfaces are modules of `wit_world.imports`, records are classes, and an error of a
`result` is raised as `Err`. `componentize-py -d wit -w agent bindings .` writes the modules, for editors.
"""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import context, respond
from wit_world.imports.types import Description, Failure, FailureKind, Outcome_Completed

SCHEMA = {
    "type": "object",
    "properties": {"unit": {"type": "string", "description": "What is counted, for people."}},
    "additionalProperties": False,
}


class WitWorld(wit_world.WitWorld):
    def describe(self):
        return Description(
            name="{{name}}",
            version="0.1.0",
            about="Counts the words that it is told.",
            config_schema=json.dumps(SCHEMA),
            wants=None,
        )

    def run(self, turn):
        unit = json.loads(context.config()).get("unit", "words")
        count = len(user_text(json.loads(turn.input)).split())
        if count == 0:
            raise Err(Failure(FailureKind.INVALID, "nothing_said", "say something to be counted", None))
        message = respond.Message()
        message.write(f"{count} {unit}")
        message.finish()
        return Outcome_Completed()


def user_text(items):
    """The text of the last message of the user."""
    for item in reversed(items):
        if item.get("type", "message") == "message" and item.get("role") == "user":
            return "".join(part.get("text", "") for part in item["content"])
    return ""
