"""Messages as they came, held against the contracts as they are published: the files of deploy/, not the types they are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.instances import Read

DEPLOY = Path(__file__).parents[1] / "deploy"
DOCUMENT = yaml.safe_load((DEPLOY / "asyncapi.yaml").read_text(encoding="utf-8"))
CHECK = Draft202012Validator.FORMAT_CHECKER


def closed(node: Any) -> Any:
    """The same schema, but what it does not name is refused: a reader may meet fields it does not know, we may not write any."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: closed(value) for key, value in node.items()}
    return {"additionalProperties": False, **node} if "required" in node else node


@cache
def of_file(name: str) -> Draft202012Validator:
    """What holds the values of a file of deploy/schemas, to the letter."""
    return Draft202012Validator(closed(json.loads((DEPLOY / "schemas" / f"{name}.json").read_text(encoding="utf-8"))), format_checker=CHECK)


@cache
def of_document(place: str) -> Draft202012Validator:
    """What holds something at a place of asyncapi.yaml."""
    return Draft202012Validator({**DOCUMENT, "$ref": f"#/{place}"}, format_checker=CHECK)


def faults(name: str, read: Sequence[Read], message: str | None = None) -> list[str]:
    """What is wrong with messages, by the schema of that name and by asyncapi.yaml; `message`: which one of the topic's, if several."""
    kind = name.partition(".")[0]
    names = DOCUMENT["channels"][kind]["messages"]
    place = f"components/messages/{message or next(iter(names))}"
    said = DOCUMENT["components"]["messages"][place.rpartition("/")[2]]
    found = []
    for record in read:
        headers = {header: value.decode() for header, value in record.headers}
        pairs = [(of_document(f"{place}/bindings/kafka/key"), record.key.decode() if record.key is not None else None)]
        if kind == "rejected":
            pairs.append((of_file(name), {header: value for header, value in headers.items() if header.startswith("__tidecast.")}))
        else:
            tree = json.loads(record.value, parse_constant=refuse)
            pairs += [(of_file(name), tree), (of_document(f"{place}/payload"), tree)]
        if "headers" in said:
            pairs.append((of_document(f"{place}/headers"), headers))
        else:
            found += [f"{name}: headers {headers}, of which the contract knows nothing"] if headers else []
        found += [f"{name}: {error.json_path}: {error.message}" for validator, tree in pairs for error in validator.iter_errors(tree)]
    return found


def refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
