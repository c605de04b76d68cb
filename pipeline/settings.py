"""Every setting: its name, default, unit, and what is allowed; read once, at the edge, into frozen values.

Defaults give way to `tidecast.toml`, that to `TIDECAST_SECTION__NAME` in the environment, that to flags. Nothing is read when this is
imported. Durations are integers in microseconds, sizes in bytes, times in microseconds since the epoch.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from pipeline.quantities import (
    Address,
    Aggregate,
    Count,
    Counts,
    Device,
    Duration,
    File,
    Forgetful,
    Format,
    Gaps,
    Instant,
    Kind,
    Layout,
    Legal,
    Levels,
    Mechanism,
    Model,
    Moments,
    Names,
    One,
    Optimiser,
    Promote,
    PublishFrom,
    Real,
    Samples,
    Security,
    Servers,
    Silent,
    Size,
    Start,
    TimeFormat,
    Topics,
    about,
    duration,
    duration_text,
    instant,
    plain,
)
from pipeline.records import SECOND

KINDS = ("forecasts", "scores", "late", "rejected", "models", "decisions", "status", "commits")  # our topics: <prefix>.<kind>.v1
# Of what is in them: a message that old readers would not understand is another topic's, whose name ends in the next number.
VERSIONS = dict.fromkeys(KINDS, 1)
SECRETS = ("kafka.sasl_password", "kafka.tls_key_password", "metrics.password")  # never in a file of settings, on a command line, or shown
MOST_COVARIATES = 32  # each takes 5 KB a series, one known ahead twice that and more
HOUR = 3_600 * SECOND
NOTHING: Mapping[str, Any] = {}
UNASKED = {"input.topics": "unasked", "series.step": "1us"}  # for who reads no topic; a step that every duration is a multiple of
EVERY = "session: one step; else none"
DISORDER = 10 * SECOND  # of many samples a step: as long as a forecast may wait for them behind its step
SEASONS = {HOUR // 4: (96,), HOUR // 2: (48,), HOUR: (24,), 24 * HOUR: (7,)}  # steps of a season by step; other steps: none


class SettingsError(Exception):
    """All that is wrong with the settings, in one message."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kafka(Section):
    bootstrap: Servers = about("brokers, host:port", ("127.0.0.1:9092",))
    security: Security = about("PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL", "PLAINTEXT")
    sasl_mechanism: Mechanism | None = about("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", None)
    sasl_username: str | None = about("user for SASL", None)
    sasl_password: SecretStr | None = about("its password; from the environment only", None)
    sasl_password_file: File | None = about("file that holds the password", None)
    tls_ca_file: File | None = about("certificates (PEM) to trust; none: the system's", None)
    tls_certificate_file: File | None = about("our certificate (PEM)", None)
    tls_key_file: File | None = about("its key (PEM)", None)
    tls_key_password: SecretStr | None = about("the key's password; from the environment only", None)
    tls_key_password_file: File | None = about("file that holds the key's password", None)


class Input(Section):
    topics: Topics = about("topics to read: names, or a regular expression that begins with ^", shown="required")
    series: Names = about("paths of the series id, joined by /; `record.key`: the key", (), shown="`series`, else the record's key")
    at: str = about("path of the event time; `record`: Kafka's own timestamp", "at", min_length=1)
    at_format: TimeFormat = about("rfc3339, an epoch in s, ms, us or ns, or a format of strptime (UTC where it has no zone)", "rfc3339")
    value: str = about("path of the value", "value", min_length=1)
    values: Names = about("columns of a wide record, each a series `<series>/<column>`; up to 23 learn from each other at 48 leads", ())
    covariates: Names = about("names of covariates, in `covariates` of a record, else its own fields; others are ignored", ())
    ahead: Names = about("those of them that `ahead` of a record tells of later cells", ())
    include: Names = about("globs of the series ids to read; none: all", ())
    exclude: Names = about("globs of the series ids to leave out", ())
    format: Format = about("json", "json")
    start: Start = about("where reading begins when there is no state: earliest, latest or a time", "earliest")
    max_skew: Duration = about("event time that a partition may be read ahead of the slowest", duration("1d"), gt=0)
    max_record_bytes: Size = about("larger records are rejected (key, value and headers; bytes)", 1_048_576)


class Series(Section):
    step: Duration = about("spacing of the samples of a series", shown="required", gt=0)
    samples: Samples = about("samples a step: one, forecast from when it comes; many, when the step's disorder has passed", "one")
    aggregate: Aggregate = about("what many samples of a step become: mean, last, sum, count or rate (a second, of a counter)", "mean")
    season: Counts = about(
        "steps of a season, or of several: 24,168; of a list the first is the seasonal naive's, and all are learnt from",
        shown="24 for 1h, 48 for 30min, 96 for 15min, 7 for 1d, else none",
    )
    gaps: Gaps = about(
        "what stands for missing samples: mask (nothing), ffill:N (the value before, N steps), linear:N (a line over up to N), "
        "split:N (more than N end the sequence)",
        "mask",
    )
    max_series: Count = about("series kept; further ids are rejected", 100_000, ge=1)
    forget_after: Duration = about("silence after which a series gives up its place", duration("30d"), gt=0)
    silent: Silent = about("at a step without a sample of a series: skip, or fill (say again what was forecast when it last spoke)", "skip")


class Time(Section):
    disorder: Duration = about("how far behind its partition's clock a record may be", shown="one step; 10s for `many`")
    idle_after: Duration = about("wall clock after which a partition without news holds nobody", duration("30s"), gt=0)
    max_hold: Duration = about("wall clock for which samples wait for another partition", duration("10s"), gt=0)
    future_limit: Duration = about("records further ahead of their Kafka timestamp are rejected", duration("1h"))
    oldest: Instant = about("records from before this are rejected", instant("1990-01-01"))


class Window(Section):
    kind: Kind = about("what is learnt at once: fixed, sliding (each step once, with the first window that holds it) or session", "fixed")
    span: Duration = about("length of a fixed or sliding window, a multiple of `series.step`", shown="one step", gt=0)
    every: Duration | None = about("from window to window (sliding), from learning to learning (session)", None, shown=EVERY, gt=0)
    gap: Duration | None = about("silence that ends a series' session", None, gt=0)
    max_span: Duration | None = about("length at which a session is cut, so that a series without gaps is learnt, too", None, gt=0)


class Forecast(Section):
    horizon: Count = about("steps ahead", 24, ge=1, le=1_000)
    levels: Levels = about("quantile levels, rising, 0.5 among them", (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95))
    model: Model = about(
        "what forecasts: mixture (all experts), nets, mixture-without-nets, linear, lstm, gru, elman, jordan, seasonal_naive or last_value",
        "mixture",
    )
    publish_from: PublishFrom = about("issue time of the first forecast published: first_start, earliest or a time", "first_start")
    min_scores: Count = about("scores of a series before its skill counts", 30, ge=1)


class Learn(Section):
    start_from: File | None = about("a taught model (`backtest --save`) to start from when there is no state", None)
    optimiser: Optimiser = about("adamw, adam or sgd (with momentum)", "adamw")
    rate: Real | None = about("learning rate", None, shown="the model's own", gt=0, le=1)
    truncation: Count | None = about(
        "steps that gradients flow back (k2); the steps between two updates (k1) are those of `window.span` or `window.every`",
        None,
        shown="the model's own",
        ge=1,
    )
    replay: Count | None = about("learning instants that are remembered to be learnt from again", None, shown="the model's own", ge=1)
    members: Count = about("networks in a mixture", 3, ge=1, le=12)
    learn_ahead: bool = about("learning runs after the forecasts that it must not delay", default=True)
    rows: Count = about("training rows a learning instant, at most", 2_048, ge=1)
    device: Device = about("auto, cpu, cuda or cuda:N", "auto")
    seed: Count = about("of everything drawn at random", 0, ge=0)
    shards: One = about("independent learners", 1)
    state_budget: Size = about("state of all series (bytes), at most; ids beyond what it has room for are rejected", 2 * 10**9)


class Output(Section):
    prefix: Legal = about("our topics are `<prefix>.forecasts.v1` and so on", "tidecast")
    layout: Layout = about("record: one record a forecast; row: one a lead", "record")
    rejected_max_bytes: Size = about("larger values are rejected without their bytes, with size and hash", 524_288)
    partitions: Count = about("of each topic that `topics apply` creates", 4, ge=1)
    replication: Count = about("replicas of each; -1: the broker's default", -1, ge=-1)


class Commit(Section):
    interval: Duration = about("how long a forecast may wait to be readable; less with nothing else to do", duration("500ms"), gt=0)
    state: File = about("folder of the snapshots; it must follow the process", ".tidecast/state")
    accept_loss: bool = about("go on where input or state is lost, and count it", default=False)


class Registry(Section):
    url: File = about("where model versions are: a folder, or s3://, gs:// or az:// with fsspec's driver for it", ".tidecast/models")
    promote: Promote = about(
        "auto: a challenger that proves better serves, a champion that proves worse goes; hand: they are told of", "auto"
    )
    moments: Moments = about("after a switch the optimiser goes on with those of the version, or of the stream", "version")
    alpha: Real = about("share of challengers that are promoted and are no better, at most", 0.05, gt=0, lt=1)
    least_instants: Count = about("steps that champion and challenger are compared on, at least", 240, ge=1)
    least_series: Count = about("series that they are compared on, at least", 1, ge=1)
    most_harm: Real = about("part by which a challenger may lose more on any one series", 0.1, ge=0)
    most_forgotten: Real = about("part by which a challenger, or a stream, may lose more on an old regime", 0.1, ge=0)
    forgetful: Forgetful = about("a challenger that has forgotten more is: tell (made, and told of) or refuse (not made)", "tell")
    shadow_for: Duration = about("how long a challenger, or a former champion, is compared (event time)", duration("30d"), gt=0)


class Metrics(Section):
    address: Address = about("where Prometheus reads, host:port; `/livez`, `/readyz` and `/version` too", "127.0.0.1:9464")
    series: Names = about("the few series whose forecasts are exported", ())
    ready_lag: Count = about("records behind, at most, at which `/readyz` says yes", 10_000, ge=0)
    password: SecretStr | None = about("asked of who reads `/metrics` and `/version` (user `tidecast`); from the environment only", None)
    password_file: File | None = about("file that holds the password", None)
    tls_certificate_file: File | None = about("certificate (PEM) to serve with; none: plain HTTP", None)
    tls_key_file: File | None = about("its key (PEM)", None)


class Page(Section):
    address: Address = about("where the live page is, host:port", "127.0.0.1:8464")


class Setting(NamedTuple):
    """A row of the settings table."""

    name: str  # dotted
    default: str
    meaning: str


class Fault(NamedTuple):
    """Something wrong, and the settings that it is about."""

    names: tuple[str, ...]
    message: str


class Settings(Section):
    """All settings, checked; `origins` tells where each that is not a default came from.

    >>> Settings.read(None, {}, {"series.step": "1h"})
    Traceback (most recent call last):
        ...
    pipeline.settings.SettingsError: the settings cannot be used:
      input.topics is required: topics to read: names, or a regular expression that begins with ^
    """

    application: Legal = about("names the consumer group, the transaction and the state; one running instance each", "tidecast")
    kafka: Kafka
    input: Input
    series: Series
    time: Time
    window: Window
    forecast: Forecast
    learn: Learn
    output: Output
    commit: Commit
    registry: Registry
    metrics: Metrics
    page: Page
    origins: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @classmethod
    def read(
        cls, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], *, otherwise: Mapping[str, Any] = NOTHING
    ) -> Settings:
        """Settings from a TOML file, `TIDECAST_...` variables and flags (dotted names; None: not given).

        `otherwise`: what stands for settings that are required and not given, for those who do not look at them.
        Raises SettingsError with every fault at once.
        """
        faults: list[Fault] = []
        given: dict[str, tuple[Any, str]] = {name: (value, "default") for name, value in otherwise.items()}
        for source in (from_file(file, faults), from_environment(environ), from_flags(flags)):
            given |= source
        known = {name: pair for name, pair in given.items() if name in FIELDS}
        faults += [Fault((name,), unknown(name, origin)) for name, (_, origin) in given.items() if name not in FIELDS]
        read_secrets(known, faults)
        settings = checked(known, faults)
        if settings is None or faults:
            raise SettingsError("\n  ".join(["the settings cannot be used:", *dict.fromkeys(fault.message for fault in faults)]))
        return settings

    def shown(self) -> list[tuple[str, str, str]]:
        """(name, value, origin) of every setting; secrets are masked."""
        values = flat(self.model_dump())
        return [(name, text(values[name]), self.origins.get(name, "default")) for name in FIELDS]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
        elif name != "origins":
            yield prefix + name, field


FIELDS = dict(fields(Settings))


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        (f"{outer}.{name}" if name else outer): value
        for outer, inner in tree.items()
        for name, value in (inner.items() if isinstance(inner, Mapping) else [("", inner)])
    }


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {name.split(".")[0]: {} for name in FIELDS if "." in name}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (tree[section] if section else tree)[key] = value
    return tree


def describe() -> list[Setting]:
    """The settings table: name, default, meaning, in the order of the sections."""
    defaults = {name: value for name, value, _ in Settings.read(None, {}, {"input.topics": "any", "series.step": "1h"}).shown()}
    return [
        Setting(name, (field.json_schema_extra or {}).get("shown") or defaults[name], field.description) for name, field in FIELDS.items()
    ]


def text(value: object) -> str:
    """A value as `check` and the table write it.

    >>> text(("a", "b")), text(True), text(None), text(())
    ('a, b', 'true', 'none', 'none')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# Reading


def from_file(file: Path | None, faults: list[Fault]) -> dict[str, tuple[Any, str]]:
    if file is None:
        return {}
    try:
        content = file.read_text(encoding="utf-8")
        tree = tomllib.loads(content)
    except (OSError, ValueError) as wrong:
        faults.append(Fault((), f"{file}: {wrong.strerror if isinstance(wrong, OSError) else f'not TOML: {wrong}'}"))
        return {}
    lines = line_numbers(content)
    return {name: (value, f"{file} line {lines[name]}" if name in lines else str(file)) for name, value in flat(tree).items()}


def line_numbers(content: str) -> dict[str, int]:
    r"""Where a TOML text says what; keys in inline tables and unusual quoting are not found.

    >>> line_numbers('application = "a"\n[kafka]\nbootstrap = "b:1"')
    {'application': 1, 'kafka.bootstrap': 3}
    """
    section, found = "", {}
    for row, line in enumerate(content.splitlines(), start=1):
        if heading := re.match(r"\s*\[([A-Za-z0-9_.-]+)\]", line):
            section = heading[1] + "."
        elif key := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            found[section + key[1]] = row
    return found


def variable(name: str) -> str:
    return "TIDECAST_" + name.replace(".", "__").upper()


def from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Variables with `__`, and the few without that name a setting; the rest (TIDECAST_SERVICE_HOST) is somebody else's."""
    close = {name.replace(".", "_") for name in FIELDS}
    found = {}
    for key in sorted(environ):
        name = key.removeprefix("TIDECAST_").lower()
        if key.startswith("TIDECAST_") and ("__" in name or name in close):
            found[name.replace("__", ".")] = (environ[key], f"environment {key}")
    return found


def from_flags(flags: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    return {name: (value, "flag") for name, value in flags.items() if value is not None}


def unknown(name: str, origin: str) -> str:
    section, _, key = name.rpartition(".")
    same_key = [known for known in FIELDS if known.rpartition(".")[2] == key or known.replace(".", "_") == name]
    near = same_key or difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.75)
    here = [known.rpartition(".")[2] for known in FIELDS if known.rpartition(".")[0] == section]
    sections = sorted({known.partition(".")[0] for known in FIELDS})
    if near:
        hint = f"did you mean {variable(near[0]) if origin.startswith('environment') else near[0]}?"
    else:
        hint = f"[{section}] has {', '.join(here)}" if section and here else f"allowed: {', '.join(sections)}"
    return f"{plain(name)} ({origin}): no such setting; {hint}"


def read_secrets(given: dict[str, tuple[Any, str]], faults: list[Fault]) -> None:
    """Put what the `..._file` settings point to in place; a secret written anywhere else is refused without being shown."""
    for name in SECRETS:
        value, origin = given.pop(name, (None, ""))
        file, file_origin = given.get(f"{name}_file", (None, ""))
        if value is not None and not origin.startswith("environment"):
            faults.append(Fault((name,), f"{name} ({origin}): not here; allowed: {variable(name)} in the environment, or {name}_file"))
        elif value is not None and file is not None:
            faults.append(Fault((name,), f"{name} ({origin}) and {name}_file ({file_origin}): allowed: one of the two"))
        elif value is not None:
            given[name] = (value, origin)
        elif file is not None:
            try:
                given[name] = (Path(file).read_text(encoding="utf-8").rstrip("\r\n"), f"file {file}")
            except (OSError, TypeError, ValueError) as wrong:
                why = wrong.strerror if isinstance(wrong, OSError) else "not text"
                faults.append(Fault((name,), f"{name}_file = {plain(file)} ({file_origin}): {why}; allowed: a file that can be read"))


def checked(given: Mapping[str, tuple[Any, str]], faults: list[Fault]) -> Settings | None:
    """The settings, or with faults added, what can be said of them: contradictions are looked for among the sound ones."""
    origins = {name: origin for name, (_, origin) in given.items()}
    values = {name: value for name, (value, _) in given.items()}
    try:
        settings = Settings.model_validate(nested(derived(values) | values) | {"origins": origins})
    except ValidationError as wrong:
        new = [fault(error, given) for error in wrong.errors()]
        broken = {name for one in new for name in one.names}
        faults += [one for one in new if one.names[0] in given or "required" in one.message]
        sound = {"input.topics": "input", "series.step": "1h"} | {name: v for name, v in values.items() if name not in broken}
        settings = Settings.model_validate(nested(derived(sound) | sound))
    broken = {name for one in faults for name in one.names}
    faults += [one for one in contradictions(settings, values) if not broken & set(one.names)]
    return settings


def derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from other settings."""
    try:
        step = duration(values.get("series.step"))
    except ValueError:
        step = HOUR  # said to be wrong elsewhere
    disorder = DISORDER if values.get("series.samples") == "many" else step
    found = {"time.disorder": duration_text(disorder), "window.span": duration_text(step), "series.season": SEASONS.get(step, ())}
    return found | ({"window.every": duration_text(step)} if values.get("window.kind") == "session" else {})


def fault(error: Any, given: Mapping[str, tuple[Any, str]]) -> Fault:
    """One of pydantic's errors in our words."""
    location = [str(part) for part in error["loc"]]
    name = next(known for known in (".".join(location[:2]), location[0]) if known in FIELDS)
    if error["type"] == "missing":
        return Fault((name,), f"{name} is required: {FIELDS[name].description}")
    value, origin = given.get(name, (None, "default"))
    message = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"][0].lower() + error["msg"][1:]
    shown = "..." if name in SECRETS else plain(value)
    return Fault((name,), f"{name} = {shown} ({origin}): {message}")


def contradictions(settings: Settings, given: Mapping[str, Any]) -> Iterator[Fault]:
    """Settings that are sound alone and not together."""
    yield from contradictions_of_windows(settings, given)
    if settings.series.samples == "one" and settings.series.aggregate != "mean":
        message = f"series.aggregate = {settings.series.aggregate}: there is nothing to join; allowed: with series.samples = many"
        yield Fault(("series.aggregate", "series.samples"), message)
    if settings.input.values and "input.value" in given:
        yield Fault(("input.value", "input.values"), "input.value and input.values: allowed: one of the two")
    if len(set(settings.input.values)) < len(settings.input.values):
        yield Fault(("input.values",), f"input.values = {plain(', '.join(settings.input.values))}: allowed: each column once")
    yield from contradictions_of_covariates(settings.input, settings.series.samples)
    if settings.input.at == "record" and "input.at_format" in given:
        yield Fault(("input.at", "input.at_format"), "input.at_format: Kafka's own timestamp has none; allowed: to leave it out")
    ours = {f"{settings.output.prefix}.{kind}.v{VERSIONS[kind]}" for kind in KINDS}
    for topic in settings.input.topics:
        if topic in ours:  # expressions never find them
            message = f"input.topics = {topic}: a topic that is written here; allowed: others than output.prefix begins"
            yield Fault(("input.topics", "output.prefix"), message)
    if settings.metrics.address == settings.page.address and not settings.page.address.endswith(":0"):
        yield Fault(("metrics.address", "page.address"), f"metrics.address and page.address are both {settings.page.address}")
    yield from contradictions_of_kafka(settings.kafka, given)
    yield from contradictions_of_metrics(settings.metrics)


KINDS_OF = {"span": ("fixed", "sliding"), "every": ("sliding", "session"), "gap": ("session",), "max_span": ("session",)}  # windows


def contradictions_of_windows(settings: Settings, given: Mapping[str, Any]) -> Iterator[Fault]:
    window, step = settings.window, settings.series.step
    for key, kinds in KINDS_OF.items():
        name, value = f"window.{key}", getattr(window, key)
        if window.kind not in kinds:
            if name in given:
                yield Fault((name, "window.kind"), f"{name} needs window.kind = {' or '.join(kinds)}, not {window.kind}")
        elif value is None:
            yield Fault((name, "window.kind"), f"{name} is required: window.kind = {window.kind}")
        elif value % step:
            yield Fault(
                (name, "series.step"), f"{name} = {duration_text(value)}: allowed: a multiple of series.step = {duration_text(step)}"
            )
    if window.kind == "sliding" and window.every is not None and window.every > window.span:
        message = f"window.every = {duration_text(window.every)}: allowed: at most window.span = {duration_text(window.span)}"
        yield Fault(("window.every", "window.span"), message)


def contradictions_of_covariates(asked: Input, samples: str) -> Iterator[Fault]:
    if asked.covariates and samples == "many":
        message = "input.covariates with series.samples = many: not in this release; allowed: with series.samples = one"
        yield Fault(("input.covariates", "series.samples"), message)
    for name, given in (("input.covariates", asked.covariates), ("input.ahead", asked.ahead)):
        shown = plain(", ".join(given))
        if len(set(given)) < len(given):
            yield Fault((name,), f"{name} = {shown}: allowed: each name once")
        if not all(given):
            yield Fault((name,), f"{name} = {shown}: allowed: names that are not empty")
    if len(asked.covariates) > MOST_COVARIATES:
        yield Fault(("input.covariates",), f"input.covariates are {len(asked.covariates)}; allowed: at most {MOST_COVARIATES}")
    if strange := [name for name in asked.ahead if name not in asked.covariates]:
        yield Fault(("input.ahead", "input.covariates"), f"input.ahead = {plain(', '.join(strange))}: allowed: names of input.covariates")
    if "at" in asked.ahead:
        yield Fault(("input.ahead",), "input.ahead = at: allowed: other names; `at` is the time in `ahead` of a record")
    if taken := sorted({*asked.covariates} & {*asked.values, asked.value}):
        yield Fault(("input.covariates", "input.values"), f"input.covariates = {plain(', '.join(taken))}: allowed: others than the values")


def contradictions_of_kafka(kafka: Kafka, given: Mapping[str, Any]) -> Iterator[Fault]:
    sasl, tls = kafka.security.startswith("SASL"), kafka.security.endswith("SSL")
    for key in ("sasl_mechanism", "sasl_username", "sasl_password"):
        name = f"kafka.{key}"
        if sasl and getattr(kafka, key) is None:
            yield Fault((name, "kafka.security"), f"{name} is required: kafka.security = {kafka.security}")
        elif not sasl and name in given:
            yield Fault((name, "kafka.security"), f"{name} needs kafka.security = SASL_SSL or SASL_PLAINTEXT, not {kafka.security}")
    for key in ("tls_ca_file", "tls_certificate_file", "tls_key_file", "tls_key_password"):
        name, value = f"kafka.{key}", getattr(kafka, key)
        if value is not None and not tls:
            yield Fault((name, "kafka.security"), f"{name} needs kafka.security = SSL or SASL_SSL, not {kafka.security}")
        elif isinstance(value, str) and not Path(value).is_file():
            yield Fault((name,), f"{name} = {plain(value)}: no such file")
    if (kafka.tls_certificate_file is None) != (kafka.tls_key_file is None):
        names = ("kafka.tls_certificate_file", "kafka.tls_key_file")
        yield Fault(names, " and ".join(names) + ": allowed: both or none")


def contradictions_of_metrics(metrics: Metrics) -> Iterator[Fault]:
    names = ("metrics.tls_certificate_file", "metrics.tls_key_file")
    given = (metrics.tls_certificate_file, metrics.tls_key_file)
    for name, value in zip(names, given, strict=True):
        if value is not None and not Path(value).is_file():
            yield Fault((name,), f"{name} = {plain(value)}: no such file")
    if (given[0] is None) != (given[1] is None):
        yield Fault(names, " and ".join(names) + ": allowed: both or none")


def kafka_options(settings: Settings) -> dict[str, Any]:
    """What every Kafka client of ours is made with, in kafka-python's names; the host name of a certificate is always checked."""
    kafka = settings.kafka
    password, key_password = kafka.sasl_password, kafka.tls_key_password
    options = {
        "bootstrap_servers": list(kafka.bootstrap),
        "security_protocol": kafka.security,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "ssl_cafile": kafka.tls_ca_file,
        "ssl_certfile": kafka.tls_certificate_file,
        "ssl_keyfile": kafka.tls_key_file,
        "ssl_password": key_password.get_secret_value() if key_password else None,
    }
    return {name: value for name, value in options.items() if value is not None}
