"""From settings to what a learner is made from and what its network is then, and back to the names of the settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from models import versus
from models.learner import Config, Learner
from pipeline.events import Rules
from pipeline.registry import Parameters, Shape
from pipeline.settings import Settings
from pipeline.succession import Rules as Succession


def config_of(settings: Settings) -> Config:
    chosen = {name: getattr(settings.learn, name) for name in ("rate", "truncation", "replay")}
    season, *further = settings.series.season or (None,)
    return Config(
        horizon=settings.forecast.horizon,
        season=season,
        further_seasons=tuple(further),
        levels=settings.forecast.levels,
        model=settings.forecast.model,
        optimiser=settings.learn.optimiser,
        gaps=settings.series.gaps,
        fill=settings.series.silent == "fill",
        members=settings.learn.members,
        columns=len(settings.input.values),
        covariates=settings.input.covariates,
        ahead=settings.input.ahead,
        min_scores=settings.forecast.min_scores,
        rows=settings.learn.rows,
        most_forgotten=settings.registry.most_forgotten,
        seed=settings.learn.seed,
        device=settings.learn.device,
        step_us=settings.series.step,
        **{name: value for name, value in chosen.items() if value is not None},
    )


class Limits(NamedTuple):
    """What memory allows."""

    room: int  # series that `learn.state_budget` has room for
    too_wide: bool  # whether a record has too many columns for them to see each other


def limits_of(settings: Settings) -> Limits:
    learner = Learner(replace(config_of(settings), device="cpu"))
    return Limits(settings.learn.state_budget // learner.bytes_each(), learner.others.too_wide)


def rules_of(settings: Settings, sources: int, *, room: int | None = None) -> Rules:
    """`sources` partitions; `room`: series that there is memory for, None: as many as are asked for."""
    window = settings.window
    most = settings.series.max_series if room is None else min(settings.series.max_series, room)
    return Rules(
        step=settings.series.step,
        grid=window.span if window.every is None else window.every,
        disorder=settings.time.disorder,
        learn_ahead=settings.learn.learn_ahead,
        idle_after=settings.time.idle_after / 1e6,
        max_hold=settings.time.max_hold / 1e6,
        max_skew=settings.input.max_skew,
        quota=math.ceil(1.1 * most / max(sources, 1)),
        forget_after=settings.series.forget_after,
        aggregate=settings.series.aggregate if settings.series.samples == "many" else None,
        kind=window.kind,
        gap=window.gap or 0,
        max_span=window.max_span or 0,
        fill=settings.series.silent == "fill",
    )


def succession_of(settings: Settings, *, room: int) -> Succession:
    """What is asked of whoever is to serve; `room`: series that there is memory for."""
    given, config = settings.registry, config_of(settings)
    judge = versus.Rules(
        instants=given.least_instants,
        series=given.least_series,
        alpha=given.alpha,
        harm=given.most_harm,
        coverage=(1 - 2 * min(config.levels) - SLACK, 1.0),
    )
    return Succession(judge, given.promote == "auto", given.shadow_for, room // 2)


SLACK = 0.1  # that a challenger's widest band may hold less than it says


def shape_of(config: Config) -> Shape:
    """Of a learner's settings, those that shape its network."""
    return Shape(**{name: getattr(config, name) for name in Shape.__struct_fields__})


def learner_of(shape: Shape) -> Learner:
    """A learner of these settings that has seen nothing. Raises ValueError for settings that make none."""
    return Learner(Config(**msgspec.structs.asdict(shape), device="cpu"))


def parameters_of(shape: Shape) -> Parameters:
    """What a network of these settings is made of, in the order of the flat weights. Raises ValueError for settings that make none."""
    network = learner_of(shape).descent.flat.network
    return tuple((name, tuple(p.shape)) for name, p in network.named_parameters())


def shaping(config: Config) -> dict[str, Any]:
    """The settings that a learner's state is shaped by, as names and plain values."""
    return {
        "series.season": [config.season, *config.further_seasons] if config.further_seasons else config.season,
        "series.gaps": config.gaps,
        "series.silent": "fill" if config.fill else "skip",
        "forecast.horizon": config.horizon,
        "forecast.levels": list(config.levels),
        "forecast.model": config.model,
        "learn.truncation": config.truncation,
        "learn.replay": config.replay,
        "input.covariates": list(config.covariates),
        "input.ahead": list(config.ahead),
    }
