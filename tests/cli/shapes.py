"""The shapes of what the verbs print with --json: keys and types, at every depth.

`frozen_json.json` has them by command. A shape is a mapping of keys to shapes, a list of the shapes that
its items can have, or the types of a value, like "float|null". `{"*": shape}` is a mapping whose keys
are names, and `{"null or": shape}` can be null. Programs read this output: to change that file is to
change the interface.
"""

import json
from pathlib import Path
from typing import Any

FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "frozen_json.json").read_text())
TYPES = {str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has a shape; lists, and mappings of names, may be empty."""
    match shape:
        case {"*": inner}:
            return isinstance(value, dict) and all(fits(v, inner) for v in value.values())
        case {"null or": inner}:
            return value is None or fits(value, inner)
        case dict():
            return (
                isinstance(value, dict)
                and value.keys() == shape.keys()
                and all(fits(value[key], shape[key]) for key in shape)
            )
        case list():
            return isinstance(value, list) and all(any(fits(v, s) for s in shape) for v in value)
        case _:
            return TYPES.get(type(value)) in shape.split("|")
