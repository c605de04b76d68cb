"""The contracts that people generate from: `schemas/` and `asyncapi.yaml`, made from the types that encode the messages.

    python -m deploy.contracts

writes both. A change that those who read our topics, or write to our input, would not survive is refused: it needs a new topic, whose name
ends in the next version, or a second thought.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from pipeline.decode import Observation
from pipeline.records import DecisionRecord, Forecast, Late, LeadForecast, Pointer, Score, Status
from pipeline.rejected import ATTEMPT, Errors
from pipeline.settings import VERSIONS, Output
from pipeline.topics import Wanted, event_type, wanted

DRAFT = "https://json-schema.org/draft/2020-12/schema"
HERE = Path(__file__).parent
FOLDER, DOCUMENT = HERE / "schemas", HERE / "asyncapi.yaml"
INPUT = "input.v1"
KAFKA = {"bindingVersion": "0.5.0"}
Schema = dict[str, Any]


class Contract(NamedTuple):
    """A schema that is published, by the name of its file, and what it is made from."""

    kind: str  # of topic
    type: type[msgspec.Struct]


def contracts() -> dict[str, Contract]:
    """By name of the file, without `.json`; the version of a topic is in it."""

    def of(kind: str, type_: type[msgspec.Struct], part: str = "") -> tuple[str, Contract]:
        return f"{kind}.v{VERSIONS[kind]}{part}", Contract(kind, type_)

    return {
        INPUT: Contract("input", Observation),
        **dict(
            [
                of("forecasts", Forecast),
                of("forecasts", LeadForecast, ".row"),
                of("scores", Score),
                of("late", Late),
                of("decisions", DecisionRecord),
                of("models", Pointer),
                of("status", Status),
                of("rejected", Errors, ".headers"),
            ]
        ),
    }


def schemas() -> dict[str, Schema]:
    """Every schema by name, each whole in itself."""
    return {name: schema(name, contract.type) for name, contract in contracts().items()}


def schema(name: str, of: type[msgspec.Struct]) -> Schema:
    [top], parts = msgspec.json.schema_components([of], ref_template="#/$defs/{name}")
    own = top["$ref"].rpartition("/")[2]
    whole = parts.pop(own) | ({"$defs": parts} if parts else {})
    if name != INPUT:
        whole = promised(whole)
    return {"$schema": DRAFT, "$id": f"urn:tidecast:{name}", **whole}


def promised(node: Any) -> Any:
    """We write every field, also one with a default, unless it says that it may be left out: it has no default in the schema."""
    if isinstance(node, list):
        return [promised(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: promised(value) for key, value in node.items()}
    fields = node.get("properties")
    if isinstance(fields, dict) and "required" in node:
        required = [name for name, field in fields.items() if name in node["required"] or "default" in field]
        return node | {"properties": {name: bare(field) for name, field in fields.items()}, "required": required}
    return node


def bare(field: Schema) -> Schema:
    return {key: value for key, value in field.items() if key != "default"}


# What would break


class Break(NamedTuple):
    """Why those who go by the schema that is published would not survive the one that the code makes."""

    name: str  # of the schema
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}.json: {self.where}: {self.what}"


REMEDY = """\
Whoever goes by what is published would break. Keep what they have, and add beside it; or raise the version of the topic: VERSIONS in
pipeline/settings.py, so that its name, `ce_type` and the file of its schema end in the next number, with a line in CHANGELOG.md.
What is read from the input has no version: what was read once is read for good."""


def breaks(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[Break]:
    """What is incompatible between the schemas that are published and those that the code makes now.

    >>> before = {"late.v1": {"properties": {"at": {"type": "string"}}, "required": ["at"]}}
    >>> [str(one) for one in breaks(before, {"late.v1": {"properties": {"at": {"type": "integer"}}, "required": ["at"]}})]
    ['late.v1.json: at: was string, is integer']
    """
    found = []
    for name, was in old.items():
        if name in new:
            found += [Break(name, where or "the message", what) for where, what in differences(was, new[name], ours=name != INPUT)]
        elif not superseded(name, new):
            found.append(Break(name, "the message", "is gone"))
    return found


def superseded(name: str, new: Mapping[str, Schema]) -> bool:
    """Whether the topic of a schema has a later version: the old file stays for those who still read the old topic."""
    kind, number = topic_of(name)
    return any(topic_of(one)[0] == kind and topic_of(one)[1] > number for one in new)


def topic_of(name: str) -> tuple[str, int]:
    """Which topic a schema is of, and which version of it.

    >>> topic_of("forecasts.v1.row")
    ('forecasts', 1)
    """
    kind, version, *_ = name.split(".")
    return kind, int(version[1:])


Found = Iterator[tuple[str, str]]


def differences(old: Schema, new: Schema, *, ours: bool) -> Found:
    """(where, what) is incompatible: what we write must fit the old schema (`ours`), what others write must fit the new one."""
    yield from compared(old, new, old, new, "", ours)


def compared(old: Schema, new: Schema, old_root: Schema, new_root: Schema, where: str, ours: bool) -> Found:  # noqa: FBT001
    olds, news = members(old, old_root), members(new, new_root)
    if ours:
        added = [kind for kind in news if kind not in olds and not (kind == "integer" and "number" in olds)]
        if added:
            yield where, f"was {' or '.join(olds)}, is {' or '.join(news)}"
    else:
        gone = [kind for kind in olds if kind not in news and not (kind == "integer" and "number" in news)]
        if gone:
            yield where, f"was {' or '.join(olds)}, is {' or '.join(news)}"
    for kind in olds:
        if kind in news:
            yield from constrained(olds[kind], news[kind], where, ours)
            yield from inside(olds[kind], news[kind], old_root, new_root, where, ours)


def members(schema: Schema, root: Schema) -> dict[str, Schema]:
    """What a value may be, by type: references followed, alternatives side by side. Two alternatives of one type are not told apart."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return {kind: one for part in schema["anyOf"] for kind, one in members(part, root).items()}
    if "type" in schema:
        return {schema["type"]: schema}
    if "enum" in schema:
        return {"string": schema}
    return {"object": schema} if "properties" in schema else {"anything": schema}


LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def constrained(old: Schema, new: Schema, where: str, ours: bool) -> Found:  # noqa: FBT001
    """Bounds, forms and closed lists. `wide` must hold all that `narrow` allows."""
    wide, narrow = (old, new) if ours else (new, old)
    for word in ("format", "pattern", "const"):
        if word in wide and wide[word] != narrow.get(word):
            yield where, f"{word} was {old.get(word, 'any')}, is {new.get(word, 'any')}"
    for words, sign in ((LEAST, 1), (MOST, -1)):
        for word in words:
            if word in wide and (word not in narrow or sign * narrow[word] < sign * wide[word]):
                yield where, f"{word} was {old.get(word, 'none')}, is {new.get(word, 'none')}"
    if "enum" in old or "enum" in new:
        before, now = old.get("enum"), new.get("enum")
        gone = [one for one in before or () if now is not None and one not in now]
        if gone:
            yield where, f"{', '.join(map(str, gone))} is not among its values any more"
        if ours and before is not None:
            fresh = ["any"] if now is None else [one for one in now if one not in before]
            if fresh:
                yield where, f"{', '.join(map(str, fresh))} was not among its values, and old readers do not know it"
        elif not ours and before is None and now is not None:
            yield where, f"was any text, is one of {', '.join(map(str, now))}"


def inside(old: Schema, new: Schema, old_root: Schema, new_root: Schema, where: str, ours: bool) -> Found:  # noqa: FBT001
    """Fields, items and values."""
    before, now = old.get("properties", {}), new.get("properties", {})
    for name, field in before.items():
        at = f"{where}.{name}".lstrip(".")
        if name not in now:
            yield at, "is gone"
            continue
        yield from compared(field, now[name], old_root, new_root, at, ours)
        must, may = name in new.get("required", ()), name in old.get("required", ())
        if ours and may and not must:
            yield at, "was always there, may now be missing"
        if not ours and must and not may:
            yield at, "could be left out, must now be sent"
    if not ours:
        yield from ((f"{where}.{name}".lstrip("."), "is new, and must be sent") for name in new.get("required", ()) if name not in before)
    for word, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(old.get(word), dict) and isinstance(new.get(word), dict):
            yield from compared(old[word], new[word], old_root, new_root, f"{where}{mark}", ours)
        elif isinstance(old.get(word), dict) if ours else isinstance(new.get(word), dict):
            yield f"{where}{mark}", "is said of only one of both"


# AsyncAPI


def document() -> dict[str, Any]:
    """The whole as AsyncAPI 3.0, whole in itself."""
    about = metadata("tidecast")
    topics = {w.name.split(".")[-2]: w for w in wanted("{prefix}", Output().partitions)}
    parts: dict[str, Schema] = {}
    for name, contract in contracts().items():
        parts |= components(name, contract.type)
    messages = {
        "observation": message(
            Observation,
            "One observation, in the default shape",
            series_key("Id of the series; may be left out where the value says it."),
            traced(),
        ),
        "forecast": message(Forecast, "One series, all lead times (output.layout = record)", series_key(), cloud_event("forecasts")),
        "leadForecast": message(LeadForecast, "One series, one lead time (output.layout = row)", series_key(), cloud_event("forecasts")),
        "score": message(Score, "A value, and the forecasts that met it", series_key(), cloud_event("scores")),
        "late": message(Late, "An observation that came too late", series_key(), cloud_event("late")),
        "rejected": rejected(),
        "decision": message(DecisionRecord, "Something decided or found", application_key(), cloud_event("decisions")),
        "pointer": message(Pointer, "Which version has a role", text_key("<application>/<model>/<role>"), cloud_event("models")),
        "status": message(Status, "How an application is, once a second", application_key(), None),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidecast",
            "version": about["Version"],
            "description": INTRODUCTION,
            "license": {"name": about["License-Expression"], "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "127.0.0.1:9092", "protocol": "kafka", "description": "`kafka.bootstrap` of the settings."}},
        "channels": {
            "input": {
                "address": "{topic}",
                "title": "Input",
                "description": "What is forecast: any JSON; this is the default shape, `[input]` of the settings maps others.",
                "parameters": {"topic": {"description": "`input.topics` of the settings."}},
                "messages": {"observation": {"$ref": "#/components/messages/observation"}},
            },
            **{kind: channel(kind, topics[kind]) for kind in MESSAGES},
        },
        "operations": {
            "readInput": {
                "action": "receive",
                "channel": {"$ref": "#/channels/input"},
                "summary": "Read with read_committed; the group's offsets are committed in the transaction of the output.",
                "bindings": {"kafka": {"groupId": {"type": "string", "description": "`application` of the settings."}, **KAFKA}},
            },
            **{
                f"write{kind.title()}": {"action": "send", "channel": {"$ref": f"#/channels/{kind}"}, "summary": said}
                for kind, (_, said) in MESSAGES.items()
            },
        },
        "components": {"messages": messages, "schemas": parts},
    }


INTRODUCTION = (
    "Calibrated forecasts for every series of a Kafka topic. Read with isolation.level=read_committed: every message is then seen once, "
    "and its id is the same if it is ever seen again. Within a version of a topic fields may be added, and nothing is taken away or "
    "changed: do not refuse fields that you do not know."
)

MESSAGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "forecasts": (("forecast", "leadForecast"), "When a sample arrives: one forecast of all leads, or one for each."),
    "scores": (("score",), "When a value arrives: the forecasts that were made for it."),
    "late": (("late",), "Observations behind `time.disorder`."),
    "rejected": (("rejected",), "Records that cannot be used, their bytes unchanged."),
    "models": (("pointer",), "Which version of a model has a role. In this release only challengers are told of, by `retrain`."),
    "decisions": (("decision",), "What was decided or found; on change only."),
    "status": (("status",), "Once a second; outside any transaction, and outside all promises."),
}


def channel(kind: str, topic: Wanted) -> dict[str, Any]:
    names, said = MESSAGES[kind]
    return {
        "address": topic.name,
        "title": kind.capitalize(),
        "description": said,
        "parameters": {"prefix": {"default": Output().prefix, "description": "`output.prefix` of the settings."}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {key: plain(key, value) for key, value in topic.config.items()},
                **KAFKA,
            }
        },
    }


def plain(key: str, value: str) -> Any:
    """A topic's setting, which Kafka takes as text, as AsyncAPI wants it.

    >>> plain("retention.ms", "60000"), plain("cleanup.policy", "compact"), plain("min.cleanable.dirty.ratio", "0.1")
    (60000, ['compact'], 0.1)
    """
    return [value] if key == "cleanup.policy" else json.loads(value)


def components(name: str, of: type[msgspec.Struct]) -> dict[str, Schema]:
    """The schema of a type and of its parts, as AsyncAPI refers to them."""
    _, parts = msgspec.json.schema_components([of], ref_template="#/components/schemas/{name}")
    return {part: one if name == INPUT else promised(one) for part, one in parts.items()}


def message(of: type[msgspec.Struct], summary: str, key: Schema, headers: Schema | None) -> dict[str, Any]:
    return {
        "name": of.__name__,
        "title": of.__name__,
        "summary": summary,
        "contentType": "application/json",
        **({"headers": headers} if headers is not None else {}),
        "payload": {"$ref": f"#/components/schemas/{of.__name__}"},
        "bindings": {"kafka": {"key": key, **KAFKA}},
    }


def rejected() -> dict[str, Any]:
    return {
        "name": "Rejected",
        "title": "Rejected",
        "summary": "A record of the input that cannot be used: key, value and headers unchanged, and the reason in further headers",
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/Errors"},
        "payload": {"description": "The bytes that came, whatever they are; empty where they were too large, null for a tombstone."},
        "bindings": {"kafka": {"key": {"description": "The key that came, whatever it is."}, **KAFKA}},
    }


def text_key(description: str) -> Schema:
    return {"type": "string", "description": description}


def series_key(description: str = "The series, UTF-8; the partition is murmur2 of it, as every Kafka client has it.") -> Schema:
    return text_key(description)


def application_key() -> Schema:
    return text_key("The application.")


TRACE = {"type": "string", "description": "W3C trace context of the sample that caused this, where it had one."}


def traced() -> Schema:
    """The headers of a record of the input that are looked at."""
    fields = {
        "traceparent": {"type": "string", "description": "W3C trace context; it goes on to what the sample causes."},
        ATTEMPT: {"type": "string", "pattern": "^[0-9]+$", "description": "How often it has been rejected, of one that was sent again."},
    }
    return {"type": "object", "properties": fields}


def cloud_event(kind: str) -> Schema:
    """CloudEvents 1.0 in binary mode: the headers of what is in one of our topics."""
    fields: dict[str, Schema] = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "`id` of the message."},
        "ce_source": {"type": "string", "description": "/tidecast/<application>"},
        "ce_type": {"type": "string", "const": event_type(kind)},
        "ce_time": {"type": "string", "format": "date-time", "description": "Event time, never the clock."},
        "content-type": {"type": "string", "const": "application/json"},
    }
    return {"type": "object", "properties": {**fields, "traceparent": TRACE}, "required": [*fields]}


# Files


def texts() -> dict[Path, str]:
    """What every file must say."""
    made = {FOLDER / f"{name}.json": json.dumps(one, indent=2, ensure_ascii=False) + "\n" for name, one in schemas().items()}
    apart = json.loads(json.dumps(document()))  # what is the same in two places is written twice, not as a reference to the first
    written = yaml.safe_dump(apart, sort_keys=False, allow_unicode=True, width=140)
    return {**made, DOCUMENT: "# Made by `python -m deploy.contracts`; the types are in pipeline/records.py.\n" + written}


def published() -> dict[str, Schema]:
    """The schemas as they are on disk, by name."""
    return {path.name.removesuffix(".json"): json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def refusal(found: list[Break]) -> str:
    return "\n".join([*map(str, found), REMEDY])


def main() -> int:
    found = breaks(published(), schemas())
    if found:
        sys.stderr.write(refusal(found) + "\n")
        return 1
    FOLDER.mkdir(exist_ok=True)
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(HERE.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
