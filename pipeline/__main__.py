"""The command: `tidecast`, or `python -m pipeline`. Heavy imports live inside the verb that needs them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.registry import Because, Move, Registry
    from pipeline.resend import Choice
    from pipeline.settings import Settings

app = typer.Typer(
    name="tidecast",
    help="Calibrated forecasts for every series of a Kafka topic, from recurrent networks that never stop learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
broker_app = typer.Typer(help="A development Kafka on this machine.", no_args_is_help=True)
topics_app = typer.Typer(help="The topics we write: what is there, what is missing.", no_args_is_help=True)
app.add_typer(broker_app, name="broker")
models_app = typer.Typer(help="Versions of the model: what is there, and which one is champion.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(models_app, name="models")
rejected_app = typer.Typer(help="Records that could not be used: looked at, and sent again.", no_args_is_help=True)
app.add_typer(rejected_app, name="rejected")

DONE, FAILED, WRONG_USAGE, FENCED, STATE_LOST, INTERRUPTED = 0, 1, 2, 70, 78, 130

Config = Annotated[Path | None, typer.Option("--config", "-c", help="A file of settings; default: tidecast.toml, where there is one.")]
Assign = Annotated[list[str] | None, typer.Option("--set", "-s", help="Any setting: section.name=value. Repeat as needed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.")]
Bootstrap = Annotated[str | None, typer.Option(help="Brokers, host:port; separate several with commas.")]
Topic = Annotated[str | None, typer.Option(help="The topic to read; a regular expression begins with ^.")]
Step = Annotated[str | None, typer.Option(help="Spacing of the samples: 1s, 15min, 1h, 1d.")]
Season = Annotated[str | None, typer.Option(help="Steps of a season, or of several: 24,168.")]
Horizon = Annotated[int | None, typer.Option(help="Steps to forecast ahead.")]
Scraped = Annotated[bool, typer.Option("--prometheus", help="Start a Prometheus beside it, with our rules; it must be on PATH.")]
Application = Annotated[str | None, typer.Option(help="Names the consumer group, the transaction and the state.")]


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


@contextmanager
def outcomes() -> Iterator[None]:
    """Exit codes: what is known to go wrong is one message and a code; a bug is a stack trace."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        known = outcome(error)
        if known is None:
            raise
        code, text = known
        say(f"tidecast: {text}")
        raise typer.Exit(code) from None


def outcome(error: Exception) -> tuple[int, str] | None:
    """The exit code of an error that is known, and what to say; None for a bug."""
    from pipeline.settings import SettingsError

    if isinstance(error, SettingsError):
        return WRONG_USAGE, str(error)
    from pipeline.registry import RegistryError
    from pipeline.store import StoreError

    if isinstance(error, RegistryError | StoreError):
        return FAILED, str(error)
    from pipeline.resend import ResendError

    if isinstance(error, ResendError):
        return FAILED, str(error)
    from pipeline.operate import NAMED, told

    return next(((code, told(error)) for kind, code in NAMED if isinstance(error, kind)), None)


def assigned(pairs: list[str] | None) -> dict[str, Any]:
    """`--set` as flags.

    >>> assigned(["series.step=1h"])
    {'series.step': '1h'}
    """
    from pipeline.settings import SettingsError

    wrong = [p for p in pairs or [] if "=" not in p]
    if wrong:
        raise SettingsError(f"--set {wrong[0]}: allowed: section.name=value")
    return dict(p.split("=", 1) for p in pairs or [])


def settings_from(config: Path | None, pairs: list[str] | None, flags: dict[str, Any]) -> Settings:
    from pipeline.settings import Settings

    return Settings.read(config or default_config(), os.environ, {**flags, **assigned(pairs)})


def default_config() -> Path | None:
    default = Path("tidecast.toml")
    return default if default.exists() else None


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,  # noqa: FBT002 - typer's way to say a switch
) -> None:
    if show_version:
        sys.stdout.write(f"tidecast {version('tidecast')}\n")
        raise typer.Exit


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(help="How long to run.", min=5)] = 60.0,
    bootstrap: Bootstrap = None,
    page: Annotated[bool, typer.Option("--page", help="Show it in a browser, too: prints where.")] = False,  # noqa: FBT002
    prometheus: Scraped = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """See it work: a real Kafka on this machine, ten thousand half-hours of New York's taxis replayed into it, a live table.

    Example: tidecast demo --seconds 60

    Example: tidecast demo --page --seconds 600
    """
    with outcomes():
        from pipeline.demo import run_demo
        from pipeline.summary import console, show, what_next

        result, interrupted = run_demo(seconds, bootstrap=bootstrap, quiet=as_json, page=page, prometheus=prometheus)
        if as_json:
            print_json(result)
        else:
            show(result, console())
            what_next(console())
        if interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def run(
    context: typer.Context,
    config: Config = None,
    topic: Topic = None,
    bootstrap: Bootstrap = None,
    step: Step = None,
    season: Season = None,
    horizon: Horizon = None,
    application: Application = None,
    assign: Assign = None,
    take_over: Annotated[bool, typer.Option(help="Stop another live instance of this application and go on from where it stood.")] = False,  # noqa: FBT002
    accept_loss: Annotated[bool, typer.Option(help="After exit 78: start again without the state that is lost.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Forecast every series of a topic, on your brokers, until stopped. Ctrl-C or SIGTERM commits and ends.

    What follows -- goes to Beam: another runner, with its options; it publishes at least once, repeats have the same id.

    Example: tidecast run --topic meters --step 15min
    Example: tidecast run --topic meters --step 15min -- --runner=FlinkRunner --flink_master=jobs:8081
    """
    with outcomes():
        flags = {
            "input.topics": topic, "kafka.bootstrap": bootstrap, "series.step": step, "series.season": season,
            "forecast.horizon": horizon, "application": application, "commit.accept_loss": accept_loss or None,
        }  # fmt: skip
        settings = settings_from(config, assign, flags)
        from pipeline import operate
        from pipeline.stop import until_told_to_stop
        from pipeline.summary import console, show

        operate.log_to_stderr()
        with until_told_to_stop() as stop:
            if context.args:
                from pipeline import elsewhere

                elsewhere.run(settings, context.args, stop=stop)
                return
            result = operate.run(settings, stop=stop, take_over=take_over)
        if as_json:
            print_json(result)
        else:
            show(result, console())
        if stop.interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="CSV or NDJSON (also .gz), Parquet; with --dump, what kcat -J wrote (also .gz).")],
    config: Config = None,
    step: Step = None,
    season: Season = None,
    horizon: Horizon = None,
    application: Application = None,
    out: Annotated[str | None, typer.Option(help="A folder for one NDJSON file per topic; - writes forecasts to stdout.")] = None,
    as_is: Annotated[bool, typer.Option(help="Keep the rows' order instead of (time, series, row).")] = False,  # noqa: FBT002
    close: Annotated[bool, typer.Option(help="Close what the data left open at its end.")] = False,  # noqa: FBT002
    wide_rows: Annotated[bool, typer.Option(help="One series per row, without times; needs --start.")] = False,  # noqa: FBT002
    start: Annotated[str | None, typer.Option(help="With --wide-rows: the time of the first column.")] = None,
    dump: Annotated[bool, typer.Option(help="The file is a topic as kcat -J writes it: each partition with its own offsets.")] = False,  # noqa: FBT002
    decisions: Annotated[
        Path | None, typer.Option(help="With --dump: the decisions topic, one a line or as kcat -J; its wakes are repeated.")
    ] = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The same flow over a file: bounded, no broker, the same bytes.

    Example: tidecast replay ETTh2.csv --step 1h --set input.at=date --set input.values=HUFL,OT --out forecasts/

    A run again, from its topic: tidecast replay meters.ndjson --dump --decisions decisions.ndjson -c tidecast.toml --out again/
    """
    with outcomes():
        flags = {"series.step": step, "series.season": season, "forecast.horizon": horizon, "application": application}
        settings = settings_from(config, assign, {"input.topics": file.name, "forecast.publish_from": "earliest", **flags})
        from pipeline import operate
        from pipeline.summary import console, show

        operate.log_to_stderr()
        result = operate.replay(
            settings, file, out=out, as_is=as_is, close=close, wide_rows=wide_rows, start=start, dump=dump, decisions=decisions
        )
        if as_json:
            print_json(result)
        elif out != "-":
            show(result, console())


@app.command()
def backtest(
    file: Annotated[Path, typer.Argument(help="CSV or NDJSON (also .gz), Parquet.")],
    config: Config = None,
    at: Annotated[str, typer.Option("--time", help="Column of the times; several, with commas, are joined by a space.")] = "at",
    time_format: Annotated[
        str, typer.Option(help="rfc3339 (also without zone); s, ms, us, ns since the epoch; ordinal (days); or strptime's.")
    ] = "rfc3339",
    series: Annotated[
        str | None, typer.Option(help="Columns of the series id, joined by /; none. Default: series, if there is one.")
    ] = None,
    values: Annotated[str | None, typer.Option(help="Columns of values, each a series. Default: all that hold numbers.")] = None,
    covariates: Annotated[str | None, typer.Option(help="Columns that are known beside the values, at their own time.")] = None,
    ahead: Annotated[str | None, typer.Option(help="Columns of which each forecast knows the values at all its leads.")] = None,
    wide_rows: Annotated[bool, typer.Option(help="One series per row, without times; needs --start.")] = False,  # noqa: FBT002
    start: Annotated[str | None, typer.Option(help="With --wide-rows: the time of the first column of values.")] = None,
    step: Annotated[str | None, typer.Option(help="Spacing: 15min, 1h, 1d; 1b (business days), 1mo (calendar months).")] = None,
    season: Annotated[str | None, typer.Option(help="Steps of a season, or of several: 24,168; none. Default: from the step.")] = None,
    horizon: Horizon = None,
    disorder: Annotated[
        int | None, typer.Option(help="Steps that samples may be late by; learning waits for them. Default: 1.", min=0)
    ] = None,
    warmup: Annotated[int, typer.Option(help="Rows of each series to train on before going online; 0: online from random weights.")] = 0,
    validation: Annotated[int, typer.Option(help="Rows behind them that say when training stops; not counted.")] = 0,
    test: Annotated[int | None, typer.Option(help="Rows behind them that count. Default: the rest.")] = None,
    scale: Annotated[
        str, typer.Option(help="Unit of errors: none (the series' own), warmup (standard deviations of its warm-up rows).")
    ] = "none",
    model: Annotated[str | None, typer.Option(help="What forecasts: mixture, nets, linear, lstm, ...; see forecast.model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything drawn at random.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page to look at: one HTML file that needs no network.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the learner as the warm-up leaves it: a stream starts from it (learn.start_from).")
    ] = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The learner alone over a file: score, forecast, learn, row by row, beside the naive forecasts. Ctrl-C ends with what there is.

    Forecasts count from the last validation row on. Skill is against the naive forecast that was better in hindsight.

    Example: tidecast backtest ETTh2.csv.gz --time date --step 1h --horizon 48 --warmup 2880 --validation 720 --scale warmup

    Example: tidecast backtest pm25.csv --time year,month,day,hour --time-format '%Y %m %d %H' --values pm2.5 --step 1h --report out.html

    Example: tidecast backtest stocks.csv --time Date --series Stock --values Close --step 1b --horizon 5

    Example: tidecast backtest load.csv --values load --covariates price --ahead temperature,holiday --step 1h

    Example: tidecast backtest m4.csv --wide-rows --start 2015-07-01 --step 1h --horizon 48 --json

    A stream starts from what was taught: tidecast backtest meters.csv --step 1h --warmup 2880 --validation 720 --save meters.model
    """
    with outcomes():
        from models.prequential import Split
        from pipeline import backtest as verb
        from pipeline.arrange import Asked, listed
        from pipeline.summary import console

        on, nominal = verb.stepping(step)
        beside = None if covariates is None and ahead is None else (*dict.fromkeys([*listed(covariates), *listed(ahead)]),)
        flags = {
            "input.topics": "backtest", "series.step": nominal, "series.season": () if season == "none" else season,
            "forecast.horizon": horizon, "forecast.model": model, "learn.seed": seed,
            "input.covariates": beside, "input.ahead": None if ahead is None else listed(ahead),
            "time.disorder": None if disorder is None or on is None else f"{disorder * on.step_us}us",
        }  # fmt: skip
        settings = settings_from(config, assign, flags)
        ids = None if series is None else () if series == "none" else listed(series)
        aggregate = settings.series.aggregate if settings.series.samples == "many" else None
        asked = Asked(file, listed(at), time_format, ids, listed(values), wide_rows, start, aggregate, covariates=settings.input.covariates)
        split = Split(warmup, validation, test)
        result, counted, interrupted = verb.run(asked, settings, on, split=split, scale=scale, out=report, save=save)
        if as_json:
            print_json(result)
        else:
            verb.show(result, counted, console())
        if interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command()
def retrain(
    file: Annotated[
        str | None,
        typer.Argument(help="CSV, NDJSON or Parquet, a folder or a pattern of them, also in an object store. Default: the topic."),
    ] = None,
    config: Config = None,
    topic: Topic = None,
    bootstrap: Bootstrap = None,
    step: Step = None,
    season: Season = None,
    horizon: Horizon = None,
    application: Application = None,
    once: Annotated[bool, typer.Option("--once", help="Now, and then end; the default.")] = False,  # noqa: FBT002
    every: Annotated[str | None, typer.Option(help="Stay, and do it every so often: 6h is at 0, 6, 12 and 18 o'clock (UTC).")] = None,
    cron: Annotated[str | None, typer.Option(help="Stay, and do it as cron has it (UTC): '0 3 * * *'.")] = None,
    fresh: Annotated[bool, typer.Option(help="From random weights, not from the champion's.")] = False,  # noqa: FBT002
    steps: Annotated[int | None, typer.Option(help="Steps of descent, at most. Default: until nothing more is gained.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for training, at most.", min=0.01)] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder that a run which is killed is gone on with from. Default: .tidecast/retrain/APPLICATION.")
    ] = None,
    textfile: Annotated[Path | None, typer.Option(help="Write metrics here, for the textfile collector of a node exporter.")] = None,
    pushgateway: Annotated[str | None, typer.Option(help="Push metrics there, host:port.")] = None,
    metrics: Annotated[str | None, typer.Option(help="With --every or --cron: serve metrics at host:port.")] = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Train on history and put a challenger into the registry; one at a time. Ctrl-C ends it; the next goes on from there.

    Exit code 70: another one is at it.

    Example: tidecast retrain --topic meters --step 15min --minutes 30
    Example: tidecast retrain history/ --step 15min --set input.at=time --set input.series=meter --fresh --json
    Example: tidecast retrain --topic meters --step 15min --cron '0 3 * * *' --textfile /var/lib/node_exporter/tidecast.prom
    """
    with outcomes():
        from pipeline.settings import SettingsError

        given = [name for name, said in (("--once", once), ("--every", every), ("--cron", cron)) if said]
        if len(given) > 1:
            raise SettingsError(f"{' and '.join(given)}: allowed: one of them")
        if metrics is not None and not (every or cron):
            raise SettingsError("--metrics: a run that ends serves nobody; allowed: with --every or --cron, or --textfile or --pushgateway")
        flags = {
            "input.topics": topic if file is None else "unread", "kafka.bootstrap": bootstrap, "series.step": step, "series.season": season,
            "forecast.horizon": horizon, "application": application,
        }  # fmt: skip
        settings = settings_from(config, assign, flags)
        registry = registry_of(settings)
        from models.course import Budget
        from pipeline.retrain import Asked, Report
        from pipeline.retrainer import Retrainer
        from pipeline.stop import until_told_to_stop

        budget = Budget(steps, None if minutes is None else 60 * minutes)
        asked = Asked(settings, file, fresh, budget, work or Path(".tidecast/retrain") / settings.application)
        with until_told_to_stop() as stop:
            retrainer = Retrainer(asked, registry, Report(textfile, pushgateway), stop=stop, tell=print_json if as_json else None)
            if every or cron:
                retrainer.stay(every=every, cron=cron, address=metrics)
            else:
                retrainer.once()
        if stop.is_set() and not (every or cron):
            raise typer.Exit(INTERRUPTED)


@app.command()
def watch(
    config: Config = None,
    bootstrap: Bootstrap = None,
    application: Application = None,
    address: Annotated[str | None, typer.Option(help="Where the page is, host:port.")] = None,
    assign: Assign = None,
) -> None:
    """The live page: actual against forecast, skill, coverage, decisions, lag. Reads our topics as anybody may; changes nothing.

    Example: tidecast watch -c tidecast.toml

    Example: tidecast watch --bootstrap kafka:9092 --address 0.0.0.0:8464
    """
    with outcomes():
        from pipeline.settings import UNASKED, Settings

        flags = {"kafka.bootstrap": bootstrap, "application": application, "page.address": address, **assigned(assign)}
        settings = Settings.read(config or default_config(), os.environ, flags, otherwise=UNASKED)
        from pipeline.page import watch as page
        from pipeline.stop import until_told_to_stop

        with until_told_to_stop() as stop:
            page.watch(settings, stop=stop, ready=lambda where: say(f"look at {where} (Ctrl-C ends it)"))
        if stop.interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command()
def check(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:  # noqa: FBT002
    """The settings and where each came from; can the brokers be reached; are the topics right.

    Example: tidecast check -c tidecast.toml
    """
    with outcomes():
        settings = settings_from(config, assign, {})
        from pipeline import operate

        rows = settings.shown()
        trouble = operate.trouble(settings)
        if as_json:
            print_json({"settings": {n: {"value": v, "from": o} for n, v, o in rows}, "trouble": trouble})
        else:
            width = max(len(name) for name, _, _ in rows)
            sys.stdout.write("".join(f"{name:<{width}}  {value}  ({origin})\n" for name, value, origin in rows))
            sys.stdout.write("\n".join(trouble or ["the brokers answer and the topics are right"]) + "\n")
        if trouble:
            raise typer.Exit(FAILED)


@topics_app.command()
def plan(
    config: Config = None,
    topic: Topic = None,
    bootstrap: Bootstrap = None,
    step: Step = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What is missing or different; changes nothing. Example: tidecast topics plan --topic meters --step 15min"""
    with outcomes():
        settings = settings_from(config, assign, {"input.topics": topic, "kafka.bootstrap": bootstrap, "series.step": step})
        from pipeline import operate

        found = operate.plan_topics(settings)
        if as_json:
            print_json({"differences": [d._asdict() for d in found]})
        else:
            sys.stdout.write("".join(f"{d.topic} {d.what}\n" for d in found) or "the topics are right\n")


@topics_app.command()
def apply(
    config: Config = None,
    topic: Topic = None,
    bootstrap: Bootstrap = None,
    step: Step = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Make the topics that are missing. Example: tidecast topics apply --topic meters --step 15min"""
    with outcomes():
        settings = settings_from(config, assign, {"input.topics": topic, "kafka.bootstrap": bootstrap, "series.step": step})
        from pipeline import operate

        made = operate.apply_topics(settings)
        if as_json:
            print_json({"made": made})
        else:
            sys.stdout.write("".join(f"made {name}\n" for name in made) or "nothing was missing\n")


Version = Annotated[str, typer.Argument(help="champion, challenger, previous, or the version's name.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the move.")]


def registry_from(config: Path | None, pairs: list[str] | None) -> Registry:
    """The registry that settings name; those that say what to read are not asked for."""
    return registry_of(settings_of_registry(config, pairs))


def settings_of_registry(config: Path | None, pairs: list[str] | None) -> Settings:
    from pipeline.settings import UNASKED, Settings

    return Settings.read(config or default_config(), os.environ, assigned(pairs), otherwise=UNASKED)


def registry_of(settings: Settings) -> Registry:
    from pipeline.registry import Parameters, Registry, Shape
    from pipeline.settings import SettingsError
    from pipeline.store import StoreError

    def parameters(shape: Shape) -> Parameters:
        from pipeline.configure import parameters_of  # torch, for those who look at weights

        return parameters_of(shape)

    try:
        return Registry(settings.registry.url, application=settings.application, model="default", parameters=parameters)
    except StoreError as error:
        raise SettingsError(f"registry.url: {error}") from error


def because(reason: str) -> Because:
    """Who asks, and when."""
    import getpass
    import time

    from pipeline.registry import Because

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container, without a name
        user = f"user {os.getuid()}"
    return Because(user, time.time_ns() // 1_000, reason)


def begins(effective_from: str | None) -> int:
    """us; None: with the first instant that a stream comes to. Looked at before anything moves."""
    from pipeline.quantities import instant
    from pipeline.settings import SettingsError

    try:
        return 0 if effective_from is None else instant(effective_from)
    except ValueError as error:
        raise SettingsError(f"--from {effective_from}: {error}") from error


def move_champion(settings: Settings, how: Callable[[Registry, Move], Move], *, effective_from: int, as_json: bool) -> None:
    """Move the name in the registry, and say so, to the streams that run first."""
    from pipeline.versions import move_text, moved

    registry = registry_of(settings)
    before = registry.last()
    move = how(registry, before)
    told = "kafka.bootstrap" in settings.origins
    if told:
        tell_streams(settings, move, effective_from)
    if as_json:
        print_json({**moved(move), "moved": move is not before, "told": told})
        return
    text = f"{move.now.champion} is champion already" if move is before else move_text(moved(move))
    where = f"streams on {', '.join(settings.kafka.bootstrap)} are told" if told else "kafka.bootstrap is not set: no stream is told"
    sys.stdout.write(f"{text}\n{where}\n")


def tell_streams(settings: Settings, move: Move, effective_from: int) -> None:
    """A pointer to the champion, from a learning instant on."""
    from pipeline.operate import announce

    announce(settings, role="champion", version=str(move.now.champion), effective_from=effective_from, by=move.by, reason=move.reason)


@models_app.command("list")
def list_versions(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Every version, newest first, and which are champion, challenger and previous. Example: tidecast models list"""
    with outcomes():
        from pipeline.versions import list_text, listing

        found = listing(registry_from(config, assign))
        if as_json:
            print_json(found)
        else:
            sys.stdout.write(list_text(found))


@models_app.command()
def show(name: Version, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:  # noqa: FBT002
    """All that is known of a version, once all of it has been checked. Example: tidecast models show champion"""
    with outcomes():
        from pipeline.versions import show_text, showing

        said = showing(registry_from(config, assign), name)
        if as_json:
            print_json(said)
        else:
            sys.stdout.write(show_text(said))


EffectiveFrom = Annotated[
    str | None, typer.Option("--from", help="Learning instant from which it serves, RFC 3339; the first that a stream comes to.")
]


@models_app.command()
def promote(
    name: Version,
    reason: Reason = "",
    effective_from: EffectiveFrom = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Make a version champion; the champion before it is previous from then on. A stream that runs hands over to it.

    Example: tidecast models promote challenger --reason "a week of shadowing"
    """
    with outcomes():
        settings, at = settings_of_registry(config, assign), begins(effective_from)
        move_champion(settings, lambda of, seen: of.promote(of.resolve(name), seen, because(reason)), effective_from=at, as_json=as_json)


@models_app.command()
def rollback(
    reason: Reason = "",
    effective_from: EffectiveFrom = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Make the previous champion champion again. Example: tidecast models rollback --reason worse"""
    with outcomes():
        settings, at = settings_of_registry(config, assign), begins(effective_from)
        move_champion(settings, lambda of, seen: of.rollback(seen, because(reason)), effective_from=at, as_json=as_json)


class Written(StrEnum):
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@models_app.command()
def export(
    name: Version,
    out: Annotated[Path, typer.Option(help="A folder; it is made, and must hold no other version.")],
    form: Annotated[
        Written, typer.Option("--format", help="A version's files as they are, or its networks as a graph.")
    ] = Written.SAFETENSORS,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Write a version, checked, into a folder: safetensors and JSON, as they are; or its networks for onnxruntime, and what goes into them.

    Example: tidecast models export champion --format onnx --out champion/
    """
    with outcomes():
        registry = registry_from(config, assign)
        version = registry.resolve(name)
        if form is Written.ONNX:
            from pipeline.portable import export_onnx

            paths = export_onnx(registry, version, out)
        else:
            paths = registry.export(version, out)
        written = [str(path) for path in paths]
        if as_json:
            print_json({"version": version, "files": written})
        else:
            sys.stdout.write("".join(f"wrote {path}\n" for path in written))


@models_app.command()
def gc(
    keep: Annotated[int, typer.Option(help="How many of the newest versions stay, besides those that have a name.", min=0)],
    dry_run: Annotated[bool, typer.Option(help="Say what would go; remove nothing.")] = False,  # noqa: FBT002
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Remove old versions, never one that is champion, challenger or previous. Example: tidecast models gc --keep 10 --dry-run"""
    with outcomes():
        registry = registry_from(config, assign)
        gone = registry.gc(keep, registry.last(), because(f"the newest {keep} are kept"), dry_run=dry_run)
        if as_json:
            print_json({"removed": gone, "dry_run": dry_run})
        else:
            word = "would remove" if dry_run else "removed"
            sys.stdout.write("".join(f"{word} {version}\n" for version in gone) or "nothing to remove\n")


RejectedFor = Annotated[str | None, typer.Option("--reason", help="Only those with this reason: not_json, schema, bad_time, ...")]
ReadFrom = Annotated[str | None, typer.Option("--topic", help="Only those that were read from this topic.")]
Since = Annotated[str | None, typer.Option(help="Only those rejected since then: 2h (ago), or a time like 2026-01-31T08:00:00Z.")]


def rejected_from(config: Path | None, pairs: list[str] | None, bootstrap: str | None) -> tuple[Settings, str]:
    """The settings, of which those that say what to read are not asked for, and the rejected topic."""
    from pipeline.settings import UNASKED, Settings

    flags = {"kafka.bootstrap": bootstrap, **assigned(pairs)}
    settings = Settings.read(config or default_config(), os.environ, flags, otherwise=UNASKED)
    from pipeline.topics import topic

    return settings, topic(settings.output.prefix, "rejected")


def choice_of(reason: str | None, topic: str | None, since: str | None) -> Choice:
    """Which rejected records are asked for. Raises SettingsError."""
    import time

    from pipeline.quantities import duration, instant
    from pipeline.records import REASONS
    from pipeline.resend import Choice
    from pipeline.settings import SettingsError

    if reason is not None and reason not in REASONS:
        raise SettingsError(f"--reason {reason}: allowed: {', '.join(REASONS)}")
    if since is None:
        return Choice(reason, topic)
    try:
        ago = since.strip()[-1:].isalpha() and not since.strip().endswith("Z")
        at = time.time_ns() // 1_000 - duration(since) if ago else instant(since)
    except ValueError as error:
        raise SettingsError(f"--since {since}: {error}") from error
    return Choice(reason, topic, max(at // 1_000, 0))


@rejected_app.command("list")
def list_rejected(
    reason: RejectedFor = None,
    topic: ReadFrom = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="How many of the newest to show; all are counted.", min=0)] = 20,
    config: Config = None,
    bootstrap: Bootstrap = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What could not be used, and why: all counted, the newest shown. Example: tidecast rejected list --since 2h --reason schema"""
    with outcomes():
        chosen = choice_of(reason, topic, since)
        settings, place = rejected_from(config, assign, bootstrap)
        from pipeline import resend
        from pipeline.settings import kafka_options

        found = resend.listing(kafka_options(settings), place, chosen, limit=limit)
        if as_json:
            print_json(found)
        else:
            sys.stdout.write(resend.list_text(found))


@rejected_app.command("replay")
def replay_rejected(
    reason: RejectedFor = None,
    topic: ReadFrom = None,
    since: Since = None,
    to: Annotated[str | None, typer.Option(help="Another topic than the one that they were read from.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be sent; send nothing.")] = False,  # noqa: FBT002
    config: Config = None,
    bootstrap: Bootstrap = None,
    assign: Assign = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Send rejected records again, as they were: key, value, headers, to the partition that they came from. Each once a run.

    They are judged again, by the settings and the clocks of today: what is behind by now goes to the late topic.

    Example: tidecast rejected replay --reason schema --since 2h --dry-run
    """
    with outcomes():
        chosen = choice_of(reason, topic, since)
        settings, place = rejected_from(config, assign, bootstrap)
        from pipeline import resend
        from pipeline.settings import kafka_options

        found = resend.resend(
            kafka_options(settings), place, chosen,
            application=settings.application, to=to, dry_run=dry_run, timed=settings.input.at == "record",
        )  # fmt: skip
        if as_json:
            print_json({"topic": place, "to": to, "dry_run": dry_run, **vars(found)})
        else:
            sys.stdout.write(resend.sent_text(found, place, dry_run=dry_run))


Folder = Annotated[Path | None, typer.Option(help="Where the broker keeps its data.")]


def folder_or_default(folder: Path | None) -> Path:
    from pipeline.broker import default_folder

    return folder or default_folder(os.environ)


def report_broker(status: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"running": status.running, "bootstrap": status.bootstrap, "pid": status.pid, "folder": status.folder, "log": status.log}
        )
    elif status.running:
        sys.stdout.write(f"a broker answers on {status.bootstrap} (process {status.pid}; data in {status.folder})\n")
    else:
        sys.stdout.write(f"no broker runs from {status.folder}\n")


@broker_app.command()
def up(
    port: Annotated[int | None, typer.Option(help="A port of 127.0.0.1; default: 9092 if it is free.")] = None,
    folder: Folder = None,
    jars: Annotated[str | None, typer.Option(help="Base address of the Maven repository to fetch Kafka from.")] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Start Kafka here; fetches it once (45 MB). Example: tidecast broker up"""
    with outcomes():
        from pipeline import broker
        from pipeline.jars import fetch

        libs = fetch(repository=jars) if jars else None
        report_broker(broker.up(folder_or_default(folder), port=port, libs=libs), as_json=as_json)


@broker_app.command()
def down(folder: Folder = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Stop it; its data stays. Example: tidecast broker down"""
    with outcomes():
        from pipeline import broker

        report_broker(broker.down(folder_or_default(folder)), as_json=as_json)


@broker_app.command()
def status(folder: Folder = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Does it run, and where. Example: tidecast broker status --json"""
    with outcomes():
        from pipeline import broker

        report_broker(broker.status(folder_or_default(folder)), as_json=as_json)


def main() -> None:
    # Beam says at import, on the root logger, that it can do without a library that nobody here asks for
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("apitools not found"))
    app()


if __name__ == "__main__":
    main()
