"""The verb around a retraining: lease, schedule, signals, what is told on the way and at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from rich.console import Console

from pipeline import health, lease, metrics, operate, retrain, schedule, store
from pipeline.quantities import instant
from pipeline.registry import Manifest, Registry, RegistryError
from pipeline.settings import SettingsError


class Retrainer:
    """`tidecast retrain` with these words. `tell` prints what a run came to; None: for people."""

    def __init__(
        self,
        asked: retrain.Asked,
        registry: Registry,
        report: retrain.Report,
        *,
        stop: threading.Event,
        tell: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        retrain.refuse(asked)
        for name in ("pytorch_lightning", "lightning"):
            logging.getLogger(name).setLevel(logging.ERROR)  # which devices there are, and what one could buy
        torch.set_num_threads(1)  # small steps wait for each other
        operate.look_less_for_garbage()
        self._asked, self._report, self._stop, self._tell = asked, report, stop, tell
        self._console = Console(stderr=True)
        settings = asked.settings
        self._lease = lease.Lease(store.opened(f"{settings.registry.url.rstrip('/')}/{settings.application}/default"))
        self._run = retrain.Run(asked, registry, held=self._lease, stop=stop, announce=self._announce, console=self._console)

    def once(self) -> None:
        """Raises what a run does; a run that was told to stop returns."""
        try:
            self._ended(retrain.once(self._run.make, self._lease))
        except lease.Held:
            raise  # another one is at it: no failure of ours
        except retrain.Stopped:
            self._console.print("stopped; the next run with these settings goes on from here", highlight=False)
        except Exception:
            self._tell_of_failure()
            raise

    def stay(self, *, every: str | None, cron: str | None, address: str | None) -> None:
        """Until told to stop. Raises SettingsError, metrics.PortTaken, and whatever is a bug."""
        times: schedule.Schedule = schedule.Every(every) if every is not None else schedule.Cron(str(cron))
        served = CollectorRegistry()
        if address is not None:
            self._report = self._report._replace(metrics=metrics.RetrainMetrics(served))
        settings = self._asked.settings
        alive = health.Health(settings.application, version("tidecast"), None, 0, [])
        answering = nullcontext() if address is None else health.serve(served, address, lambda: alive, operate.guard_of(settings))
        with answering:
            retrain.stay(self._run.make, self._lease, times, stop=self._stop, ended=self._ended, failed=self._failed)

    def _ended(self, said: dict[str, Any]) -> None:
        retrain.succeeded(said, self._report, self._asked.settings.application, self._console)
        if self._tell is not None:
            self._tell(said)
        else:
            Console().print(text(said), highlight=False, markup=False)

    def _tell_of_failure(self) -> None:
        retrain.failed(self._report, self._asked.settings.application, self._console)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, lease.Held):
            self._tell_of_failure()
        if not isinstance(error, (*(kind for kind, _ in operate.NAMED), RegistryError, store.StoreError, SettingsError)):
            raise error
        self._console.print(f"tidecast: this run failed: {operate.told(error)}", highlight=False, markup=False)

    def _announce(self, manifest: Manifest) -> None:
        """To the brokers that the history came from, or that were named."""
        settings = self._asked.settings
        if self._asked.file is not None and "kafka.bootstrap" not in settings.origins:
            return
        grid = settings.window.span if settings.window.every is None else settings.window.every
        behind = instant(manifest.data.last) + settings.series.step
        operate.announce(
            settings, role="challenger", version=manifest.version, effective_from=-(-behind // grid) * grid, by=retrain.BY,
            reason=f"loss {manifest.metrics['loss']:.4f}, before {manifest.metrics['loss_at_start']:.4f}",
        )  # fmt: skip


def text(said: dict[str, Any]) -> str:
    """What a run came to, for people."""
    loss = f"loss {said['loss']:.4f}, before {said['loss_at_start']:.4f}"
    lost = [regime for regime in said["forgotten"] if regime["lost"]]
    worse = "; ".join(f"{one['from'][:10]} to {one['to'][:10]} by {one['rise']:.0%}" for one in lost)
    if said["outcome"] == "forgetful":
        return f"no version was made: what it has learnt costs more than registry.most_forgotten of old times: {worse}"
    if said["outcome"] == "no_gain":
        return f"nothing gained in {said['passes']} passes: {loss}; no version was made"
    went_on = f" from {said['parent']}" if said["parent"] else ""
    return (
        f"{said['version']} is challenger{went_on}: {loss} after {said['steps']:,} steps over {said['observations']:,} observations of "
        f"{said['series']:,} series; `tidecast models promote challenger` makes it champion"
        + (f". It has forgotten: it loses more from {worse}" if worse else "")
    )
