"""The boards, as code: `uv run python deploy/grafana/build.py` writes the JSON files beside it, which Grafana imports as they are.

A test holds that files and code agree, that every query asks for what there is, and that a real Prometheus has an answer to each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import DataSourceRef, GraphThresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, Threshold, ThresholdsMode, VariableRefresh, VariableSort

HERE = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
OF = 'application=~"$application"'
GOOD, WARN, BAD = "green", "orange", "red"


class Query(NamedTuple):
    """An expression, and what its lines are called."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A picture: what it shows, in which unit, and what to do when it is not green."""

    title: str
    what_to_do: str
    unit: str
    queries: tuple[Query, ...]
    thresholds: tuple[tuple[float, str], ...]  # from this value on, this colour; below the first, the board's own
    base: str = GOOD
    big: bool = False  # one number instead of lines
    width: int = 12  # of 24


class Board(NamedTuple):
    """A page of panels."""

    uid: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()  # name, metric whose label of that name it lists


def one(expression: str, legend: str) -> tuple[Query, ...]:
    return (Query(expression, legend),)


def rate(name: str, by: str, legend: str, more: str = "") -> tuple[Query, ...]:
    return one(f"sum by ({by}) (rate({name}{{{OF}{more}}}[$__rate_interval]))", legend)


OVERVIEW = Board(
    "tidecast-overview",
    "Tidecast: overview",
    "Is it healthy, and is it good? Green everywhere: go back to sleep. What is not says where to look.",
    (
        Panel(
            "Targets that answer",
            "Below 1 an instance is gone: runbook TidecastGone. Start it again; it recovers from its last commit.",
            "short", one('sum by (application) (up{job="tidecast", ' + OF + "})", "{{application}}"), ((1, GOOD),), BAD, big=True, width=4,
        ),
        Panel(
            "Lag",
            "Records there and not read. Falling: wait. Rising: board Engine says which stage takes the time; runbook TidecastLagHigh.",
            "short", one(f"application:tidecast_consumer_lag_records:sum{{{OF}}}", "{{application}}"),
            ((1_000, WARN), (10_000, BAD)), big=True, width=4,
        ),
        Panel(
            "Latency, p99",
            "From a sample's append to its forecast being readable. Over 2.5 s the freshness promised is spent: runbook TidecastFreshnessBurnsFast.",
            "s", one(f"application:tidecast_forecast_latency_seconds:p99_5m{{{OF}}}", "{{application}}"),
            ((1, WARN), (2.5, BAD)), big=True, width=4,
        ),
        Panel(
            "Observations",
            "What comes in. Zero: the producer has stopped, or nothing is read (lag says which).",
            "short", one(f"application:tidecast_observations_consumed:rate1m{{{OF}}}", "{{application}} a second"),
            ((0.0001, GOOD),), WARN, big=True, width=4,
        ),
        Panel(
            "Skill at lead 1, one hour",
            "1 - error / error of the better naive forecast. Below 0 for hours: board Accuracy, runbook TidecastSkillNegative.",
            "percentunit", one(f'application_lead:tidecast_skill:ratio1h{{{OF}, lead="1"}}', "{{application}}"),
            ((-0.02, WARN), (0, GOOD)), BAD, big=True, width=4,
        ),
        Panel(
            "90 % band held, one hour",
            "Of actual values at lead 1. Outside 85 to 95 % do not act on bands: runbook TidecastCoverageOff.",
            "percentunit", one(f'application_band_lead:tidecast_coverage:ratio1h{{{OF}, band="0.9", lead="1"}}', "{{application}}"),
            ((0.85, WARN), (0.88, GOOD), (0.93, WARN), (0.96, BAD)), BAD, big=True, width=4,
        ),
        Panel(
            "Skill",
            "By lead, over an hour. Far leads near 0 are usual: there the naive forecast is served. A fall at all leads at once: look for drift.",
            "percentunit", one(f"application_lead:tidecast_skill:ratio1h{{{OF}}}", "leads {{lead}}"), ((0, GOOD),), BAD,
        ),
        Panel(
            "Served by",
            "Who made the forecasts of lead 1. All last_value or seasonal_naive for long: the model has no skill; board Accuracy.",
            "percentunit", one(f"application_expert:tidecast_forecasts_served:ratio5m{{{OF}}}", "{{expert}}"), ((1.01, BAD),),
        ),
        Panel(
            "Latency",
            "Median and p99. Both up with the lag: it is the lag. Up alone: commits (board Engine), or a partition that holds the others.",
            "s",
            (
                Query(f"application:tidecast_forecast_latency_seconds:p50_5m{{{OF}}}", "median"),
                Query(f"application:tidecast_forecast_latency_seconds:p99_5m{{{OF}}}", "p99"),
            ),
            ((1, WARN), (2.5, BAD)),
        ),
        Panel(
            "Observations and forecasts a second",
            "They go together. Observations without forecasts: nothing is published yet (forecast.publish_from), or late and rejected ones.",
            "short",
            (
                Query(f"application:tidecast_observations_consumed:rate1m{{{OF}}}", "observations"),
                Query(f"application:tidecast_forecasts_published:rate1m{{{OF}}}", "forecasts"),
            ),
            ((0.0001, GOOD),), WARN,
        ),
        Panel(
            "Late, duplicate, rejected",
            "What was read and not used, a second. Late: time.disorder is too short for the producer. Rejected: board Engine has the reasons.",
            "short",
            (
                *rate("tidecast_observations_late_total", "application", "late"),
                *rate("tidecast_observations_duplicate_total", "application", "duplicate"),
                *rate("tidecast_observations_rejected_total", "application", "rejected"),
            ),
            ((1, WARN), (100, BAD)),
        ),
        Panel(
            "Anomalies",
            "Actual values outside the 90 % band at lead 1, a second: one in ten is usual. Many more: the world has changed, or a sensor has.",
            "short", rate("tidecast_anomalies_total", "application", "anomalies"), ((1_000, WARN),),
        ),
    ),
)  # fmt: skip

ACCURACY = Board(
    "tidecast-accuracy",
    "Tidecast: accuracy",
    "How good it is, by lead, beside the naive forecasts; what it is mixed of; and the few series of metrics.series one by one.",
    (
        Panel(
            "Skill, one hour",
            "1 - error / error of the better naive forecast. Compare with six hours beside: a bad hour passes.",
            "percentunit", one(f'application_lead:tidecast_skill:ratio1h{{{OF}, lead=~"$lead"}}', "leads {{lead}}"), ((0, GOOD),), BAD,
        ),
        Panel(
            "Skill, six hours",
            "Below 0 for an hour fires TidecastSkillNegative: series.season, drift, or values that are no measurements.",
            "percentunit", one(f'application_lead:tidecast_skill:ratio6h{{{OF}, lead=~"$lead"}}', "leads {{lead}}"), ((0, GOOD),), BAD,
        ),
        Panel(
            "Mean error, in one-step changes",
            "Ours and the better naive forecast's: both up is a harder hour, ours alone up is a model that does not follow.",
            "short",
            (
                Query(
                    f'sum by (lead) (rate(tidecast_scaled_absolute_error_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))'
                    f' / sum by (lead) (rate(tidecast_scores_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))',
                    "leads {{lead}}",
                ),
                Query(
                    f'sum by (lead) (rate(tidecast_baseline_scaled_absolute_error_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))'
                    f' / sum by (lead) (rate(tidecast_scores_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))',
                    "naive, leads {{lead}}",
                ),
            ),
            ((5, WARN), (20, BAD)),
        ),
        Panel(
            "Pinball loss, in one-step changes",
            "Of all quantiles but the median: what bands are worth, narrow and right. Up with a steady error: bands too wide or too narrow.",
            "short",
            one(
                f'sum by (lead) (rate(tidecast_pinball_loss_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))'
                f' / sum by (lead) (rate(tidecast_scores_total{{{OF}, lead=~"$lead"}}[$__rate_interval]))',
                "leads {{lead}}",
            ),
            ((2, WARN), (8, BAD)),
        ),
        Panel(
            "90 % band held",
            "Should be 90 %. Off for hours: TidecastCoverageOff; after a jump in variance bands need some hundred steps.",
            "percentunit",
            one(f'application_band_lead:tidecast_coverage:ratio1h{{{OF}, band="0.9", lead=~"$lead"}}', "leads {{lead}}"),
            ((0.85, GOOD), (0.95, WARN)), BAD,
        ),
        Panel(
            "Bands held, six hours",
            "Each band should hold what it is called. All off to one side: the spread is wrong; one alone: a distribution with heavy tails.",
            "percentunit",
            one(f'application_band_lead:tidecast_coverage:ratio6h{{{OF}, lead=~"$lead"}}', "{{band}}, leads {{lead}}"), ((1.01, BAD),),
        ),
        Panel(
            "Mixture weights",
            "Who is listened to, by lead. It moves by itself; a network at 0 for weeks could be spared (learn.members).",
            "percentunit",
            one(f'avg by (expert, lead) (tidecast_mixture_weight{{{OF}, lead=~"$lead"}})', "{{expert}}, leads {{lead}}"), ((1.01, BAD),),
        ),
        Panel(
            "Drift found an hour",
            "By signal. A few a day are the world's doing; more than ten an hour a producer's: TidecastDriftStorm.",
            "short", one(f"sum by (signal) (increase(tidecast_drift_events_total{{{OF}}}[1h]))", "{{signal}}"), ((5, WARN), (10, BAD)),
        ),
        Panel(
            "Actual, and what was forecast earlier",
            "Of the series of metrics.series: lines that lie together are right. A forecast that trails by its lead is only the last value.",
            "short",
            (
                Query(f'tidecast_observed_value{{{OF}, series=~"$series"}}', "{{series}}"),
                Query(f'tidecast_forecast_made_earlier{{{OF}, series=~"$series"}}', "{{series}}, {{lead}} steps before"),
            ),
            ((1e12, WARN),), width=24,
        ),
        Panel(
            "Forecast now",
            "What is expected so many steps ahead, drawn at the time it was said (the panel above has it at the time it is of).",
            "short", one(f'tidecast_forecast_value{{{OF}, series=~"$series"}}', "{{series}}, {{lead}} steps ahead"),
            ((1e12, WARN),), width=24,
        ),
    ),
    (("lead", "tidecast_scores_total"), ("series", "tidecast_observed_value")),
)  # fmt: skip

ENGINE = Board(
    "tidecast-engine",
    "Tidecast: engine",
    "Where records, time and memory go.",
    (
        Panel(
            "Commits a second",
            "committed should never be zero while records are read: TidecastNoCommit. indefinite: a broker's answer was lost; it finds out by itself.",
            "short", rate("tidecast_commits_total", "outcome", "{{outcome}}"), ((0.0001, GOOD),), WARN,
        ),
        Panel(
            "Commit, p99",
            "What a transaction takes. Over 1 s the brokers are slow: disks, replicas, network.",
            "s",
            one(
                f"histogram_quantile(0.99, sum by (le) (rate(tidecast_commit_duration_seconds_bucket{{{OF}}}[$__rate_interval])))",
                "commit",
            ),
            ((0.25, WARN), (1, BAD)),
        ),
        Panel(
            "Time by stage",
            "Parts of a core. learn near 1 is the limit of one process: fewer learn.members, or a lighter forecast.model.",
            "percentunit", one(f"application_stage:tidecast_stage_duration_seconds:rate1m{{{OF}}}", "{{stage}}"), ((0.7, WARN), (0.9, BAD)),
        ),
        Panel(
            "Into and out of stages a second",
            "Records into decode, observations into learn, messages into publish. A stage that takes in and gives nothing is stuck.",
            "short",
            (
                *rate("tidecast_stage_elements_in_total", "stage", "into {{stage}}"),
                *rate("tidecast_stage_elements_out_total", "stage", "out of {{stage}}"),
            ),
            ((0.0001, GOOD),), WARN,
        ),
        Panel(
            "Since a stage last did something",
            "All up together: nothing comes. One alone: it waits; the log says for what.",
            "s", one(f"time() - max by (stage) (tidecast_last_processed_timestamp_seconds{{{OF}}})", "{{stage}}"),
            ((60, WARN), (3_600, BAD)),
        ),
        Panel(
            "Records read a second",
            "By topic. Zero at one of several: its producer has stopped.",
            "short", rate("tidecast_records_read_total", "topic", "{{topic}}"), ((0.0001, GOOD),), WARN,
        ),
        Panel(
            "Lag by partition",
            "One partition alone behind: a producer's burst, or it waits for another one (samples held, beside).",
            "short", one(f"tidecast_consumer_lag_records{{{OF}}}", "{{topic}}/{{partition}}"), ((1_000, WARN), (10_000, BAD)),
        ),
        Panel(
            "Samples held, partitions idle",
            "Held for longer than time.max_hold: a partition lags in event time. Idle: nobody waits for them.",
            "short",
            (
                Query(f"sum by (application) (tidecast_observations_held{{{OF}}})", "held"),
                Query(f"sum by (application) (tidecast_partitions_idle{{{OF}}})", "idle partitions"),
            ),
            ((1_000, WARN), (100_000, BAD)),
        ),
        Panel(
            "Watermark behind the newest sample",
            "Event time. A step or two is usual (time.disorder); growing without end: TidecastWatermarkStalled.",
            "s", one(f"tidecast_watermark_lag_seconds{{{OF}}}", "{{application}}"), ((7 * 86_400, WARN), (30 * 86_400, BAD)),
        ),
        Panel(
            "Rejected a second, by reason",
            "not_json, schema: the producer's format. future, bad_time: its clock, or input.at_format. Runbook TidecastRejectedFlood.",
            "short", rate("tidecast_observations_rejected_total", "reason", "{{reason}}"), ((1, WARN), (100, BAD)),
        ),
        Panel(
            "Oldest rejected record",
            "Near the topic's retention they go unseen: read them before.",
            "s", one(f"tidecast_rejected_oldest_age_seconds{{{OF}}}", "{{application}}"), ((3 * 86_400, WARN), (6 * 86_400, BAD)),
        ),
        Panel(
            "State of its budget",
            "Over 90 %: TidecastMemoryNearBound; ids that never come again, mostly.",
            "percentunit", one(f"application:tidecast_state:ratio{{{OF}}}", "{{application}}"), ((0.7, WARN), (0.9, BAD)),
        ),
        Panel(
            "Memory",
            "Of the device that learns (on a CPU: of the process), and what the series take of it. Growing with steady series: report it.",
            "bytes",
            (
                Query(f"tidecast_device_memory_bytes{{{OF}}}", "{{device}}"),
                Query(f"tidecast_state_bytes{{{OF}}}", "state of series"),
            ),
            ((8e9, WARN), (16e9, BAD)),
        ),
        Panel(
            "Series",
            "In memory; forgotten; seen in two partitions (outside the promise of replay: key the producer).",
            "short",
            (
                Query(f"sum by (application) (tidecast_active_series{{{OF}}})", "active"),
                Query(f"sum by (application) (tidecast_series_in_two_partitions{{{OF}}})", "in two partitions"),
                Query(f"sum by (application) (increase(tidecast_series_forgotten_total{{{OF}}}[1h]))", "forgotten an hour"),
            ),
            ((50_000, WARN), (100_000, BAD)),
        ),
        Panel(
            "Recoveries and failures",
            "Observations that the last recovery repeated; recoveries whose bytes differed; sends and commits that failed: the log says why.",
            "short",
            (
                Query(f"sum by (application) (tidecast_recovery_replayed_observations{{{OF}}})", "repeated"),
                Query(f"sum by (application) (tidecast_state_digest_mismatches_total{{{OF}}})", "digests that differed"),
                Query(f"sum by (application) (increase(tidecast_publish_failures_total{{{OF}}}[1h]))", "failures an hour"),
            ),
            ((1e5, WARN), (1e7, BAD)),
        ),
    ),
)  # fmt: skip

MODELS = Board(
    "tidecast-models",
    "Tidecast: models",
    "Which weights serve, how old they are, and how learning goes.",
    (
        Panel(
            "Version",
            "Hash of the weights that online learning started from, as forecasts say it in model_version. Two at once: two instances.",
            "short", one(f"max by (application, model, version, role) (tidecast_model_info{{{OF}}})", "{{role}} {{model}} {{version}}"),
            ((1, GOOD),), BAD, big=True, width=8,
        ),
        Panel(
            "Weights unchanged since",
            "Over six hours while samples come: TidecastModelStale.",
            "s", one(f"max by (application) (tidecast_model_age_seconds{{{OF}}})", "{{application}}"),
            ((3_600, WARN), (6 * 3_600, BAD)), big=True, width=8,
        ),
        Panel(
            "Updates skipped an hour",
            "Weights that were not taken since something was not finite. More than a few: skip records in the decisions topic have the numbers.",
            "short", one(f"sum by (reason) (increase(tidecast_updates_skipped_total{{{OF}}}[1h]))", "{{reason}}"),
            ((1, WARN), (10, BAD)), big=True, width=8,
        ),
        Panel(
            "Loss",
            "Of the newest learning instant. Noisy is usual; rising for days with steady errors: nothing to do; with rising errors: drift.",
            "short", one(f"tidecast_train_loss{{{OF}}}", "{{application}}"), ((10, WARN), (100, BAD)),
        ),
        Panel(
            "Gradient norm and rate",
            "Before clipping. Spikes come with new series; always high: learn.rate is too large.",
            "short",
            (
                Query(f"tidecast_gradient_norm{{{OF}}}", "gradient norm"),
                Query(f"tidecast_learning_rate{{{OF}}}", "rate"),
            ),
            ((100, WARN), (10_000, BAD)),
        ),
        Panel(
            "Learning instants a second",
            "Zero while samples are used: TidecastWatermarkStalled.",
            "short", rate("tidecast_train_steps_total", "application", "{{application}}"), ((0.0001, GOOD),), WARN,
        ),
        Panel(
            "A learning instant keeps the engine, p99",
            "From other work. Seconds delay forecasts: a smaller learn.rows, or a second core, on which learning runs beside.",
            "s",
            one(
                f"histogram_quantile(0.99, sum by (le) (rate(tidecast_train_step_seconds_bucket{{{OF}}}[$__rate_interval])))", "instant"
            ),
            ((0.5, WARN), (2.5, BAD)),
        ),
        Panel(
            "Series and steps of an instant, mean",
            "What is learnt at once. Long sequences come in bursts: see window.span.",
            "short",
            (
                Query(
                    f"sum by (application) (rate(tidecast_window_series_sum{{{OF}}}[$__rate_interval]))"
                    f" / sum by (application) (rate(tidecast_window_series_count{{{OF}}}[$__rate_interval]))",
                    "series",
                ),
                Query(
                    f"sum by (application) (rate(tidecast_sequence_length_steps_sum{{{OF}}}[$__rate_interval]))"
                    f" / sum by (application) (rate(tidecast_sequence_length_steps_count{{{OF}}}[$__rate_interval]))",
                    "steps of the longest sequence",
                ),
            ),
            ((10_000, WARN), (100_000, BAD)),
        ),
        Panel(
            "Other weights, a day",
            "switched: other weights serve. rolled_back: the former champion proved better, runbook TidecastModelTakenBack. refused: a pointer "
            "to a version that cannot serve; refuse records in the decisions topic say why.",
            "short", one(f"sum by (outcome) (increase(tidecast_model_swaps_total{{{OF}}}[1d]))", "{{outcome}}"),
            ((5, WARN), (20, BAD)), big=True, width=8,
        ),
        Panel(
            "Challengers, a week",
            "What the judge came to. All refused or undecided: retraining gains nothing here; train on a longer or a younger history.",
            "short", one(f"sum by (outcome) (increase(tidecast_promotions_total{{{OF}}}[7d]))", "{{outcome}}"),
            ((20, WARN), (100, BAD)), big=True, width=8,
        ),
        Panel(
            "The shadow loses less",
            "Part of the loss, by lead, since it came. Above zero: the shadow is better; a former champion's above zero: it may come back. "
            "Nothing here: there is no shadow.",
            "percentunit", one(f"avg by (lead) (tidecast_shadow_difference{{{OF}}})", "lead {{lead}}"), ((0.5, WARN),),
        ),
        Panel(
            "Since a retraining succeeded",
            "Two days are too long for one that comes each night: runbook TidecastRetrainOverdue. Nothing here: none has been told of.",
            "s", one(f"time() - (max by (application) (tidecast_retrain_last_success_timestamp_seconds{{{OF}}}) > 0)", "{{application}}"),
            ((1.5 * 86_400, WARN), (2 * 86_400, BAD)), big=True, width=8,
        ),
        Panel(
            "The newest retraining failed",
            "Yes: the end of its log says what is wrong, and the next due time tries again; runbook TidecastRetrainFailed.",
            "bool_yes_no", one(f"max by (application) (tidecast_retrain_failed_timestamp_seconds{{{OF}}}) > bool 0", "{{application}}"),
            ((1, BAD),), big=True, width=8,
        ),
        Panel(
            "A retraining took",
            "The newest that succeeded. Near its time limit (--minutes, the timer's, the job's) it will soon be killed on the way: give it more.",
            "s", one(f"max by (application) (tidecast_retrain_duration_seconds{{{OF}}})", "{{application}}"),
            ((3_600, WARN), (2 * 3_600, BAD)), big=True, width=8,
        ),
        Panel(
            "Padding",
            "Part of a batch of sequences that is zeros. Over a quarter, sequences are put into batches of like length; more than half is waste.",
            "percentunit", one(f"tidecast_padding_ratio{{{OF}}}", "{{application}}"), ((0.3, WARN), (0.5, BAD)),
        ),
        Panel(
            "Mixture weights at lead 1",
            "Networks together, least squares, naive forecasts. A sudden change: drift, or a new kind of series.",
            "percentunit", one(f'avg by (expert) (tidecast_mixture_weight{{{OF}, lead="1"}})', "{{expert}}"), ((1.01, BAD),),
        ),
    ),
)  # fmt: skip

BOARDS = (OVERVIEW, ACCURACY, ENGINE, MODELS)


def drawn(panel: Panel) -> timeseries.Panel | stat.Panel:
    """A panel as Grafana has it."""
    made = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])) if panel.big else timeseries.Panel()
    steps = [Threshold(None, panel.base), *(Threshold(value, color) for value, color in panel.thresholds)]
    made.title(panel.title).description(panel.what_to_do).unit(panel.unit).datasource(SOURCE)
    made.span(panel.width).height(4 if panel.big else 8)
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for k, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + k)).datasource(SOURCE)
        made.with_target(target)
    if isinstance(made, timeseries.Panel):
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return made


def chosen(name: str, metric: str, selector: str = "") -> dashboard.QueryVariable:
    """A variable that lists a label's values; all at first."""
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(f"label_values({metric}{selector}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .include_all(True)  # noqa: FBT003 - the SDK's way
        .multi(True)  # noqa: FBT003
        .all_value(".*")
    )


def rendered(board: Board) -> str:
    """A board as the text of its file."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["tidecast"])
        .editable()
        .refresh("10s")
        .time("now-3h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(chosen("application", "tidecast_observations_consumed_total"))
    )
    for name, metric in board.variables:
        made.with_variable(chosen(name, metric, f"{{{OF}}}"))
    made.link(dashboard.DashboardLink("Tidecast").type("dashboards").tags(["tidecast"]).keep_time(True))  # noqa: FBT003
    for panel in board.panels:
        made.with_panel(drawn(panel))
    return json.dumps(json.loads(json.dumps(made.build(), cls=JSONEncoder)), indent=1, sort_keys=True) + "\n"


def main() -> None:
    for board in BOARDS:
        (HERE / f"{board.uid}.json").write_text(rendered(board), encoding="utf-8")


if __name__ == "__main__":
    main()
