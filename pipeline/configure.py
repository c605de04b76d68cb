"""From settings to what a learner is made from."""

from __future__ import annotations

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
