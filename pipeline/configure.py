"""From settings to what a learner is made from, and back to the names of the settings."""

from __future__ import annotations

from typing import Any

from models.learner import Config
from pipeline.settings import Settings


def config_of(settings: Settings) -> Config:
    chosen = {name: getattr(settings.learn, name) for name in ("rate", "truncation", "replay")}
    return Config(
        horizon=settings.forecast.horizon,
        season=settings.series.season[0] if settings.series.season else None,
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
        seed=settings.learn.seed,
        device=settings.learn.device,
        step_us=settings.series.step,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def shaping(config: Config) -> dict[str, Any]:
    """The settings that a learner's state is shaped by, as names and plain values."""
    return {
        "series.season": config.season,
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
