import json
from pathlib import Path

import pytest

from pipeline.records import SECOND
from pipeline.settings import FIELDS, SECRETS, UNASKED, Settings, SettingsError, describe, fault, kafka_options, variable

NEEDED = {"input.topics": "meters", "series.step": "1h"}
HOUR = 3_600 * SECOND


def faults(flags=None, *, toml=None, environ=None, folder=None):
    """The lines of the message that these settings are refused with."""
    file = None
    if toml is not None:
        file = folder / "tidecast.toml"
        file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(SettingsError) as refused:
        Settings.read(file, environ or {}, NEEDED | (flags or {}))
    head, *lines = str(refused.value).split("\n  ")
    assert head == "the settings cannot be used:"
    return lines


def test_what_is_required_is_asked_for_by_name():
    with pytest.raises(SettingsError) as refused:
        Settings.read(None, {}, {})
    assert "input.topics is required" in str(refused.value)
    assert "series.step is required" in str(refused.value)


def test_flags_rule_the_environment_which_rules_the_file_which_rules_the_defaults(tmp_path):
    file = tmp_path / "tidecast.toml"
    file.write_text('application = "file"\n[forecast]\nhorizon = 1\nmin_scores = 1\n[learn]\nrows = 1\n')
    environ = {"TIDECAST_FORECAST__HORIZON": "2", "TIDECAST_LEARN__ROWS": "2"}
    read = Settings.read(file, environ, NEEDED | {"learn.rows": 3, "learn.seed": None})
    assert (read.application, read.forecast.min_scores, read.forecast.horizon, read.learn.rows) == ("file", 1, 2, 3)
    assert read.origins["application"] == f"{file} line 1"
    assert read.origins["forecast.min_scores"] == f"{file} line 4"
    assert read.origins["forecast.horizon"] == "environment TIDECAST_FORECAST__HORIZON"
    assert read.origins["learn.rows"] == "flag"
    assert "learn.seed" not in read.origins
    assert read.learn.seed == 0


def test_every_setting_can_be_given_in_the_environment():
    for name in FIELDS:
        given = {variable(name): "?"}
        lines = []
        try:
            Settings.read(None, given, {k: v for k, v in NEEDED.items() if k != name})
        except SettingsError as refused:
            lines = [line for line in str(refused).split("\n  ") if "no such setting" in line]
        assert not lines


@pytest.mark.parametrize(("step", "season"), [("15min", (96,)), ("30min", (48,)), ("1h", (24,)), ("1d", (7,)), ("1min", ()), ("10s", ())])
def test_season_disorder_and_span_follow_from_the_step(step, season):
    read = Settings.read(None, {}, NEEDED | {"series.step": step})
    assert read.series.season == season
    assert read.time.disorder == read.window.span == read.series.step


def test_many_samples_a_step_may_be_ten_seconds_late():
    read = Settings.read(None, {}, NEEDED | {"series.samples": "many", "series.aggregate": "rate"})
    assert (read.time.disorder, read.window.span) == (10 * SECOND, HOUR)
    assert Settings.read(None, {}, NEEDED | {"series.samples": "many", "time.disorder": "1min"}).time.disorder == 60 * SECOND


def test_sessions_are_learnt_at_every_step_unless_said():
    session = {"window.kind": "session", "window.gap": "2h", "window.max_span": "1d"}
    assert Settings.read(None, {}, NEEDED | session).window.every == HOUR
    assert Settings.read(None, {}, NEEDED | session | {"window.every": "3h"}).window.every == 3 * HOUR
    assert Settings.read(None, {}, NEEDED).window.every is None


def test_what_is_said_is_not_derived():
    read = Settings.read(None, {}, NEEDED | {"series.season": [24, 168], "time.disorder": "0s", "window.span": "3h"})
    assert (read.series.season, read.time.disorder, read.window.span) == ((24, 168), 0, 3 * HOUR)
    assert Settings.read(None, {"TIDECAST_SERIES__SEASON": "12"}, NEEDED).series.season == (12,)
    assert Settings.read(None, {"TIDECAST_SERIES__SEASON": ""}, NEEDED).series.season == ()
    with pytest.raises(SettingsError, match=r"series\.season = .*24 is there more than once; allowed: each number once"):
        Settings.read(None, {"TIDECAST_SERIES__SEASON": "24,168,24"}, NEEDED)


def test_topics_are_names_or_a_regular_expression():
    def read(topics):
        return Settings.read(None, {"TIDECAST_INPUT__TOPICS": topics}, {"series.step": "1h"}).input.topics

    assert read("a, b.c") == ("a", "b.c")
    assert read('["a", "b"]') == ("a", "b")
    assert read("^meters-(1,2|3)$") == ("^meters-(1,2|3)$",)


BROKEN = {
    "not TOML": ("[series\nstep=1", "not TOML"),
    "not text": (b"\xff\xfe\x00", "not TOML"),
    "a key twice": ('application = "a"\napplication = "b"', "not TOML"),
    "an unknown section": ('[kafak]\nbootstrap = "b:1"', "kafak.bootstrap ("),
    "an unknown key": ('[kafka]\nbootstap = "b:1"', "did you mean kafka.bootstrap?"),
    "a key of another section": ("[series]\nhorizon = 3", "did you mean forecast.horizon?"),
    "a section that is a value": ("kafka = 3", "kafka ("),
    "a value that is a section": ('[kafka.bootstrap]\nhost = "b"', "kafka.bootstrap = "),
    "a duration without a unit": ("[time]\nidle_after = 30", "time.idle_after = 30 ("),
    "a duration in minutes or months": ('[time]\nidle_after = "5m"', "allowed: a number and one of us, ms, s, min, h, d, w"),
    "a step of a month": ('[series]\nstep = "1mo"', "months are not supported yet"),
    "a step of nothing": ('[series]\nstep = "0s"', "greater than 0"),
    "a negative duration": ('[commit]\ninterval = "-1s"', "not a duration"),
    "a size in gigglebytes": ('[learn]\nstate_budget = "2gg"', "not a size"),
    "a truth for a number": ("[forecast]\nhorizon = true", "not a number"),
    "a text for a number": ('[forecast]\nhorizon = "many"', "forecast.horizon = many ("),
    "a number too small": ("[forecast]\nhorizon = 0", "greater than or equal to 1"),
    "a number too large": ("[forecast]\nhorizon = 1000000", "less than or equal to 1000"),
    "half a step": ("[forecast]\nhorizon = 1.5", "forecast.horizon = 1.5 ("),
    "levels that fall": ("[forecast]\nlevels = [0.9, 0.5, 0.1]", "rising"),
    "levels beyond one": ("[forecast]\nlevels = [0.5, 95]", "between 0 and 1"),
    "levels without the median": ("[forecast]\nlevels = [0.1, 0.9]", "0.5 among them"),
    "levels that are not numbers": ('[forecast]\nlevels = ["low", 0.5]', "allowed: numbers"),
    "a model that nobody knows": ('[forecast]\nmodel = "oracle"', "not known; allowed: mixture"),
    "some samples": ('[series]\nsamples = "some"', "not known; allowed: one, many"),
    "an unknown aggregate": ('[series]\nsamples = "many"\naggregate = "median"', "not known; allowed: mean, last, sum, count, rate"),
    "an aggregate of one": ('[series]\naggregate = "sum"', "allowed: with series.samples = many"),
    "filled without end": ('[series]\ngaps = "ffill"', "with a number of steps from 1 to 1000, like ffill:3"),
    "filled with zero": ('[series]\ngaps = "zero:3"', "series.gaps = zero:3 ("),
    "a split at nothing": ('[series]\ngaps = "split:0"', "with a number of steps from 1 to 1000"),
    "another silence": ('[series]\nsilent = "guess"', "not known; allowed: skip, fill"),
    "hopping windows": ('[window]\nkind = "hopping"', "not known; allowed: fixed, sliding, session"),
    "sliding without a way": ('[window]\nkind = "sliding"', "window.every is required: window.kind = sliding"),
    "sliding too far": ('[window]\nkind = "sliding"\nspan = "2h"\nevery = "3h"', "allowed: at most window.span = 2h"),
    "a session without a gap": ('[window]\nkind = "session"\nmax_span = "1d"', "window.gap is required: window.kind = session"),
    "a session without an end": ('[window]\nkind = "session"\ngap = "1h"', "window.max_span is required: window.kind = session"),
    "a session's gap between steps": (
        '[window]\nkind = "session"\ngap = "90min"\nmax_span = "1d"',
        "window.gap = 90min: allowed: a multiple of series.step = 1h",
    ),
    "a session's span": (
        '[window]\nkind = "session"\ngap = "1h"\nmax_span = "1d"\nspan = "1d"',
        "window.span needs window.kind = fixed or sliding, not session",
    ),
    "a fixed window's gap": ('[window]\ngap = "1h"', "window.gap needs window.kind = session, not fixed"),
    "a gap of nothing": ('[window]\nkind = "session"\ngap = "0s"\nmax_span = "1d"', "greater than 0"),
    "many shards": ("[learn]\nshards = 2", "not supported yet; allowed: 1"),
    "another format": ('[input]\nformat = "avro"', "not supported yet; allowed: json"),
    "a span between steps": ('[window]\nspan = "90min"', "a multiple of series.step = 1h"),
    "an address without a port": ('[kafka]\nbootstrap = "localhost"', "not an address"),
    "an address with a huge port": ('[metrics]\naddress = "localhost:99999"', "not an address"),
    "two servers in one place": ('[page]\naddress = "127.0.0.1:9464"', "metrics.address and page.address are both"),
    "an application that is a path": ('application = "../a"', "application = ../a ("),
    "a topic with a space": ('[input]\ntopics = ["a b"]', "not a topic name"),
    "no topics": ("[input]\ntopics = []", "input.topics = [] ("),
    "a wrong expression": ('[input]\ntopics = "^(("', "not a regular expression"),
    "our own output as input": ('[input]\ntopics = "tidecast.forecasts.v1"', "that is written here"),
    "a wrong time format": ('[input]\nat_format = "%Q"', "bad directive"),
    "no time format": ('[input]\nat_format = "minutes"', "rfc3339, s, ms, us, ns"),
    "a value and values": ('[input]\nvalue = "x"\nvalues = ["y"]', "one of the two"),
    "a column twice": ('[input]\nvalues = ["x", "y", "x"]', "each column once"),
    "a format of Kafka's own time": ('[input]\nat = "record"\nat_format = "s"', "input.at_format"),
    "a start that is no time": ('[input]\nstart = "yesterday"', "or earliest, latest"),
    "an unknown device": ('[learn]\ndevice = "tpu"', "not a device"),
    "SASL without a user": ('[kafka]\nsecurity = "SASL_SSL"\nsasl_mechanism = "PLAIN"', "kafka.sasl_username is required"),
    "a user without SASL": ('[kafka]\nsasl_username = "me"', "needs kafka.security = SASL_SSL or SASL_PLAINTEXT"),
    "an unsupported mechanism": ('[kafka]\nsasl_mechanism = "OAUTHBEARER"', "not supported yet; allowed: PLAIN"),
    "TLS files without TLS": ('[kafka]\ntls_ca_file = "/dev/null"', "needs kafka.security = SSL"),
    "a TLS file that is not there": ('[kafka]\nsecurity = "SSL"\ntls_ca_file = "/none.pem"', "no such file"),
    "a certificate without its key": ('[kafka]\nsecurity = "SSL"\ntls_certificate_file = "pyproject.toml"', "both or none"),
    "a password in the file": ('[kafka]\nsasl_password = "hunter2"', "TIDECAST_KAFKA__SASL_PASSWORD in the environment"),
    "a password file that is not there": ('[kafka]\nsasl_password_file = "/none"', "No such file"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_one_named_error(what, tmp_path):
    toml, expected = BROKEN[what]
    flags = {name: None for name in NEEDED if f"{name.rpartition('.')[2]} = " in str(toml)}
    lines = faults(flags, toml=toml, folder=tmp_path)
    assert any(expected in line for line in lines), lines
    assert not any("hunter2" in line for line in lines)
    keys = [line for line in lines if "is required" not in line]
    assert len(keys) <= 1, "one fault, one line"


def test_all_faults_are_told_at_once_with_where_each_came_from(tmp_path):
    toml = '[series]\nsamples = "some"\n\n[forecast]\nmodel = "oracle"\n'
    lines = faults({"learn.rows": 0}, toml=toml, environ={"TIDECAST_COMMIT__INTERVAL": "1"}, folder=tmp_path)
    assert [line.split(":")[0] for line in lines] == [
        f"series.samples = some ({tmp_path}/tidecast.toml line 2)",
        f"forecast.model = oracle ({tmp_path}/tidecast.toml line 5)",
        "learn.rows = 0 (flag)",
        "commit.interval = 1 (environment TIDECAST_COMMIT__INTERVAL)",
    ]


def test_what_is_required_may_be_left_out_by_those_who_do_not_look_at_it(tmp_path):
    read = Settings.read(None, {}, {}, otherwise=UNASKED)
    assert read.shown() == Settings.read(None, {}, {}, otherwise=UNASKED | {"application": "tidecast"}).shown()
    assert (read.registry.url, read.origins["input.topics"]) == (".tidecast/models", "default")
    file = tmp_path / "tidecast.toml"
    file.write_text('[input]\ntopics = ["a"]\n[window]\nkind = "session"\ngap = "7min"\nmax_span = "1h"\nevery = "30s"\n')
    read = Settings.read(file, {"TIDECAST_LEARN__ROWS": "3"}, {}, otherwise=UNASKED)
    assert (read.input.topics, read.learn.rows, read.window.gap) == (("a",), 3, 7 * 60 * SECOND)
    with pytest.raises(SettingsError, match=r"learn\.rows = 0"):
        Settings.read(file, {}, {"learn.rows": 0}, otherwise=UNASKED)


def test_a_missing_file_is_a_fault():
    with pytest.raises(SettingsError, match="No such file"):
        Settings.read(Path("/none/tidecast.toml"), {}, NEEDED)


def test_variables_of_others_are_left_alone_and_mistyped_ones_are_not():
    others = {"TIDECAST_SERVICE_HOST": "10.0.0.1", "TIDECAST_PORT_9464_TCP": "tcp://", "OTHER__X": "1"}
    assert Settings.read(None, others, NEEDED).origins == dict.fromkeys(NEEDED, "flag")
    (line,) = faults(environ={"TIDECAST_KAFKA_BOOTSTRAP": "b:1"})
    assert line.endswith("did you mean TIDECAST_KAFKA__BOOTSTRAP?")


def test_what_is_shown_of_a_value_stays_on_its_line():
    (line,) = faults({"application": "a\n\x1b[31m" + "x" * 500})
    assert "\\n\\x1b[31mxxx" in line
    assert len(line) < 200


def sasl(environ=None, **flags):
    given = {"kafka.security": "SASL_PLAINTEXT", "kafka.sasl_mechanism": "SCRAM-SHA-512", "kafka.sasl_username": "me"}
    return Settings.read(None, environ or {}, NEEDED | given | {f"kafka.{k}": v for k, v in flags.items()})


def test_passwords_come_from_files_or_the_environment_and_are_never_shown(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    for read in (sasl(sasl_password_file=str(secret)), sasl({"TIDECAST_KAFKA__SASL_PASSWORD": "hunter2"})):
        assert kafka_options(read)["sasl_plain_password"] == "hunter2"
        assert "hunter2" not in repr(read) + str(read.shown()) + json.dumps(read.model_dump(mode="json"))
        assert {name: value for name, value, _ in read.shown()}["kafka.sasl_password"] == "**********"
    with pytest.raises(SettingsError, match="one of the two"):
        sasl({"TIDECAST_KAFKA__SASL_PASSWORD": "hunter2"}, sasl_password_file=str(secret))
    with pytest.raises(SettingsError) as refused:
        sasl(sasl_password="hunter2")
    assert "hunter2" not in str(refused.value)


def test_kafka_options_speak_the_names_of_the_client(tmp_path):
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    flags = {"security": "SSL", "bootstrap": "a:1, [::1]:2", "tls_ca_file": str(tmp_path / "ca")}
    flags |= {"tls_certificate_file": str(tmp_path / "cert"), "tls_key_file": str(tmp_path / "key")}
    read = Settings.read(None, {"TIDECAST_KAFKA__TLS_KEY_PASSWORD": "x"}, NEEDED | {f"kafka.{k}": v for k, v in flags.items()})
    assert kafka_options(read) == {
        "bootstrap_servers": ["a:1", "[::1]:2"],
        "security_protocol": "SSL",
        "ssl_cafile": str(tmp_path / "ca"),
        "ssl_certfile": str(tmp_path / "cert"),
        "ssl_keyfile": str(tmp_path / "key"),
        "ssl_password": "x",
    }
    assert kafka_options(Settings.read(None, {}, NEEDED)) == {"bootstrap_servers": ["127.0.0.1:9092"], "security_protocol": "PLAINTEXT"}


def test_the_defaults_of_the_table_are_those_that_rule():
    worked_out = {"required", "none", "one step", "one step; 10s for `many`", "the model's own"}
    table = {row.name: row.default for row in describe()}
    assert list(table) == list(FIELDS)
    said = {variable(name): default for name, default in table.items() if default not in worked_out and "else" not in default}
    assert len(said) > 35
    assert Settings.read(None, said, NEEDED).model_dump() == Settings.read(None, {}, NEEDED).model_dump()


def test_every_setting_has_a_meaning():
    assert [row.name for row in describe() if not row.meaning] == []


def test_settings_cannot_be_changed_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        Settings.read(None, {}, NEEDED).forecast.horizon = 3


def test_a_fault_in_a_secret_does_not_show_it():
    for name in SECRETS:
        error = {"loc": tuple(name.split(".")), "type": "string_too_short", "msg": "Too short"}
        assert "hunter2" not in fault(error, {name: ("hunter2", f"environment {variable(name)}")}).message
