"""What is published of our messages is what the code writes, and cannot be broken without being told."""

import copy
import gzip
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from deploy import contracts
from deploy.contracts import FOLDER, INPUT, breaks, document, published, refusal, schemas, texts
from pipeline.compose import forecasts
from pipeline.decode import Decoder, Shape
from pipeline.records import SECOND, Raw, RawBlock, Source, rfc3339
from pipeline.settings import KINDS, VERSIONS
from tests import agreed, test_compose, test_learn
from tests.instances import Read

ASYNCAPI = json.loads(gzip.decompress((Path(__file__).parent / "data" / "asyncapi_3.0.0.json.gz").read_bytes()))


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_what_is_published_is_what_the_code_makes(path):
    assert path.read_text(encoding="utf-8") == texts()[path], "run `python -m deploy.contracts`"


def test_no_one_who_goes_by_what_is_published_breaks():
    found = breaks(published(), schemas())
    assert not found, refusal(found)


@pytest.mark.parametrize("name", schemas())
def test_a_schema_is_one(name):
    Draft202012Validator.check_schema(published()[name])


def test_the_document_is_asyncapi_by_its_own_schema():
    jsonschema.Draft7Validator(ASYNCAPI).validate(agreed.DOCUMENT)
    wrong = copy.deepcopy(agreed.DOCUMENT)
    wrong["channels"]["late"]["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"] = "delete"
    assert not jsonschema.Draft7Validator(ASYNCAPI).is_valid(wrong)


def test_every_topic_of_ours_has_a_channel_but_the_one_that_is_nobody_elses():
    assert {*document()["channels"]} == {*KINDS, "input"} - {"commits"}


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(one)


def test_every_reference_leads_somewhere():
    for reference in references(agreed.DOCUMENT):
        found = agreed.DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


# What breaks, and what does not


def field(name, *path):
    """The object that has a field of a schema, and the field's name."""
    schema = published()[name]
    here = schema
    for part in path[:-1]:
        here = here[part]
    return schema, here, path[-1]


def changed(name, path, **words):
    schema, here, last = field(name, *path)
    here[last] = {key: value for key, value in {**here[last], **words}.items() if value is not None}
    return schema


def without(name, *path):
    schema, here, last = field(name, *path)
    del here[last]
    return schema


def required(name, *, add=(), drop=()):
    schema = published()[name]
    schema["required"] = [one for one in [*schema["required"], *add] if one not in drop]
    return schema


POINT = ("properties", "point")
BY = ("$defs", "Served", "properties", "by")
EXPERTS = ["elman", "gru", "jordan", "last_value", "linear", "lstm", "mixture", "seasonal_naive"]
NEW = {"type": "string"}
TIME = {"type": "string", "format": "date-time"}
REQUIRED = published()["models.v1"]["required"]

INCOMPATIBLE = {
    "a field is gone": (lambda: without("forecasts.v1", *POINT), "point: is gone"),
    "a field of a part is gone": (lambda: without("forecasts.v1", *BY), "served[].by: is gone"),
    "another type": (lambda: changed("late.v1", ("properties", "offset"), type="string"), "offset: was integer, is string"),
    "another type of items": (lambda: changed("forecasts.v1", (*POINT, "items"), type="string"), "point[]: was number, is string"),
    "a wider type": (lambda: changed("late.v1", ("properties", "offset"), type="number"), "offset: was integer, is number"),
    "null where there was none": (
        lambda: changed("scores.v1", ("properties", "actual"), type=None, anyOf=[{"type": "number"}, {"type": "null"}]),
        "actual: was number, is number or null",
    ),
    "may be missing": (lambda: required("scores.v1", drop=["anomaly"]), "anomaly: was always there, may now be missing"),
    "a value is gone": (lambda: changed("forecasts.v1", BY, enum=EXPERTS[1:]), "served[].by: elman is not among its values any more"),
    "a new value": (lambda: changed("forecasts.v1", BY, enum=[*EXPERTS, "oracle"]), "served[].by: oracle was not among its values"),
    "any value": (lambda: changed("forecasts.v1", BY, enum=None, type="string"), "served[].by: any was not among its values"),
    "no format": (lambda: changed("forecasts.v1", ("properties", "issued_at"), format=None), "issued_at: format was date-time, is any"),
    "another format": (lambda: changed("forecasts.v1", ("properties", "step"), format="time"), "step: format was duration, is time"),
    "no pattern": (lambda: changed("late.v1", ("properties", "id"), pattern=None), "id: pattern was ^[0-9a-f]{32}$, is any"),
    "a bound is gone": (lambda: changed("late.v1", ("properties", "offset"), minimum=None), "offset: minimum was 0, is none"),
    "a lower bound": (lambda: changed("late.v1", ("properties", "offset"), minimum=-1), "offset: minimum was 0, is -1"),
    "an empty list": (lambda: changed("forecasts.v1", ("properties", "targets"), minItems=None), "targets: minItems was 1, is none"),
    "other values by name": (
        lambda: changed("status.v1", ("$defs", "Quality", "properties", "skill", "additionalProperties"), type="string"),
        "learner.skill.*: was number, is string",
    ),
    "a header is gone": (lambda: without("rejected.v1.headers", "properties", "__tidecast.errors.reason"), "reason: is gone"),
    "sent: now required": (lambda: required(INPUT, add=["series"]), "series: could be left out, must now be sent"),
    "sent: new and required": (
        lambda: changed(INPUT, ("properties",), unit=NEW) | {"required": ["at", "value", "unit"]},
        "unit: is new, and must be sent",
    ),
    "sent: not read any more": (lambda: without(INPUT, "properties", "ahead"), "ahead: is gone"),
    "sent: a tighter bound": (lambda: changed(INPUT, ("properties", "series"), maxLength=100), "series: maxLength was 512, is 100"),
    "sent: null is refused": (
        lambda: changed(INPUT, ("properties", "value"), anyOf=None, type="number"),
        "value: was number or null, is number",
    ),
    "sent: a new pattern": (lambda: changed(INPUT, ("properties", "series"), pattern="^a"), "series: pattern was any, is ^a"),
    "sent: a closed list": (lambda: changed(INPUT, ("properties", "series"), enum=["a"]), "series: was any text, is one of a"),
}  # fmt: skip

COMPATIBLE = {
    "a new field": lambda: changed("forecasts.v1", ("properties",), unit=NEW),
    "a new field that is always there": lambda: changed("models.v1", ("properties",), unit=NEW) | {"required": [*REQUIRED, "unit"]},
    "always there": lambda: required("status.v1", add=["lag"]),
    "never null": lambda: changed("late.v1", ("properties", "value"), anyOf=None, type="number"),
    "integers only": lambda: changed("late.v1", ("properties", "late_seconds"), type="integer"),
    "a bound": lambda: changed("scores.v1", ("properties", "actual"), minimum=0),
    "other words": lambda: changed("scores.v1", ("properties", "actual"), description="Something else."),
    "sent: a new field": lambda: changed(INPUT, ("properties",), unit=NEW),
    "sent: not required": lambda: required(INPUT, drop=["value"]),
    "sent: a wider bound": lambda: changed(INPUT, ("properties", "series"), maxLength=None),
    "sent: a wider type": lambda: changed(INPUT, ("properties", "at"), type=None, anyOf=[TIME, {"type": "integer"}]),
}  # fmt: skip


def name_of(schema):
    return schema["$id"].rpartition(":")[2]


@pytest.mark.parametrize(("change", "said"), INCOMPATIBLE.values(), ids=INCOMPATIBLE)
def test_a_change_that_breaks_is_found_and_named(change, said):
    schema = change()
    [found] = breaks(published(), {**published(), name_of(schema): schema})
    assert said in str(found)
    assert f"{name_of(schema)}.json" in str(found)


@pytest.mark.parametrize("change", COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_change_that_breaks_nobody_is_free(change):
    schema = change()
    assert schema != published()[name_of(schema)]
    assert breaks(published(), {**published(), name_of(schema): schema}) == []


def test_a_schema_that_is_gone_breaks_unless_its_topic_has_a_later_version():
    old = published()
    rest = {name: one for name, one in old.items() if not name.startswith("late")}
    assert [str(one) for one in breaks(old, rest)] == ["late.v1.json: the message: is gone"]
    assert breaks(old, {**rest, "late.v2": {"type": "object"}}) == []
    one_of_two = {name: one for name, one in old.items() if name != "forecasts.v1.row"}
    assert [str(one) for one in breaks(old, one_of_two)] == ["forecasts.v1.row.json: the message: is gone"]
    assert breaks({**old, "late.v2": old["late.v1"]}, old) != []


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The published files as they were before `point` became a text."""
    (tmp_path / "schemas").mkdir()
    for path in FOLDER.glob("*.json"):
        (tmp_path / "schemas" / path.name).write_bytes(path.read_bytes())
    before = json.dumps(changed("forecasts.v1", POINT, type="string", items=None))
    (tmp_path / "schemas" / "forecasts.v1.json").write_text(before)
    monkeypatch.setattr(contracts, "HERE", tmp_path / "schemas")
    monkeypatch.setattr(contracts, "FOLDER", tmp_path / "schemas")
    monkeypatch.setattr(contracts, "DOCUMENT", tmp_path / "asyncapi.yaml")
    return tmp_path


def test_a_breaking_change_is_not_written_and_the_way_out_is_said(elsewhere, capsys):
    before = (elsewhere / "schemas" / "forecasts.v1.json").read_text()
    assert contracts.main() == 1
    said = capsys.readouterr().err
    assert "forecasts.v1.json: point: was string, is array" in said
    assert "raise the version of the topic" in said
    assert (elsewhere / "schemas" / "forecasts.v1.json").read_text() == before
    assert not (elsewhere / "asyncapi.yaml").exists()


def test_with_the_next_version_it_is_written_beside_the_old_one(elsewhere, monkeypatch):
    before = (elsewhere / "schemas" / "forecasts.v1.json").read_text()
    monkeypatch.setitem(VERSIONS, "forecasts", 2)
    assert contracts.main() == 0
    assert (elsewhere / "schemas" / "forecasts.v1.json").read_text() == before
    assert json.loads((elsewhere / "schemas" / "forecasts.v2.json").read_text())["properties"]["point"]["type"] == "array"
    assert "{prefix}.forecasts.v2" in (elsewhere / "asyncapi.yaml").read_text()
    assert "io.tidecast.forecast.v2" in (elsewhere / "asyncapi.yaml").read_text()


# Messages that need no broker; those of a real one are held in test_run_kafka.py


def read(messages, application="app"):
    from pipeline.wire import headers

    return [Read(m.key, m.value, headers(m, application)) for m in messages]


def test_a_shard_writes_what_is_published_also_of_gaps_repeats_and_disorder():
    shard = test_learn.Shard(test_learn.spec(watched=("s00", "nobody")))
    messages = test_learn.run(shard, test_learn.schedule(test_learn.log(), 1))
    by_kind = {kind: [m for m in messages if m.kind == kind] for kind in ("forecasts", "scores")}
    assert all(by_kind.values())
    for kind, told in by_kind.items():
        assert agreed.faults(f"{kind}.v1", read(told)) == []
    assert {m.kind for m in messages} <= {*by_kind, "decisions"}


def test_a_row_for_each_lead_is_what_is_published():
    messages = forecasts(test_compose.step(2), [test_compose.told(0), test_compose.told(1, "b")], test_compose.voice("row"))
    assert len(messages) == 6
    assert agreed.faults("forecasts.v1.row", read(messages), "leadForecast") == []


def test_what_is_not_as_published_is_seen():
    [message] = forecasts(test_compose.step(), [test_compose.told()], test_compose.voice())
    for old, new, said in (
        (b'"step":"PT1H"', b'"step":"1h"', "duration"),
        (b'"issued_at":"1970-01-01T10:00:00Z"', b'"issued_at":"1970-01-01 10:00"', "date-time"),
        (b'"cold":false', b'"cold":false,"warm":true', "warm"),
        (b'"horizon":3,', b"", "horizon"),
    ):
        assert old in message.value
        wrong = message._replace(value=message.value.replace(old, new))
        assert any(said in one for one in agreed.faults("forecasts.v1", read([wrong])))
    assert agreed.faults("forecasts.v1", [Read(b"s", message.value, [])])


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: len(text.encode()) <= 512)
bounds = agreed.of_file(INPUT).schema["properties"]["value"]["anyOf"][0]
numbers = st.none() | st.floats(bounds["minimum"], bounds["maximum"]) | st.integers(-(10**38), 10**38)
times = st.integers(631_152_000 * SECOND, 4_102_444_800 * SECOND).map(rfc3339)
named = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "at"), numbers, max_size=3)


@st.composite
def observations(draw):
    value = {"series": draw(ids), "at": draw(times), "value": draw(numbers)}
    if draw(st.booleans()):
        value["covariates"] = draw(named)
    if draw(st.booleans()):
        value["ahead"] = [{"at": draw(times), **draw(named)} for _ in range(draw(st.integers(0, 2)))]
    return value


@given(value=observations(), by_key=st.booleans())
@example(value={"series": "a", "at": "1990-01-01t00:00:00.5-01:00", "value": bounds["maximum"]}, by_key=False)
def test_whatever_fits_the_schema_of_the_input_is_read(value, by_key):
    series = value["series"]
    if by_key:
        del value["series"]
    assert agreed.of_file(INPUT).is_valid(value)
    raw = Raw(0, 0, series.encode() if by_key else None, json.dumps(value).encode())
    block = Decoder(Shape()).decode(RawBlock(Source("meters", 0), 0, 1, 0.0, records=[raw]))
    assert block.rejected == []
    assert block.names == [series]
    assert len(block.value) == 1
