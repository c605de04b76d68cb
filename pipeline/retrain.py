"""`tidecast retrain`: from history to a challenger in the registry, once or on a schedule, one at a time.

A run that is killed leaves a folder: what it was asked, what it has read, and its training after the newest pass. The next one with the
same settings goes on there, and ends with the version that the first would have made; publishing the same twice is publishing it once.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from prometheus_client import CollectorRegistry, Metric, pushadd_to_gateway, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from models import course, training
from models.course import Begin, Budget, Teacher, Trained
from models.exam import examined
from models.learner import Config, Learner
from models.past import Past, Scales, scales
from models.regimes import forgotten
from models.snapshot import Parts
from pipeline import history, lease, schedule
from pipeline.configure import config_of, shape_of
from pipeline.history import History, NoHistory
from pipeline.metrics import FAILED, RetrainMetrics
from pipeline.records import rfc3339
from pipeline.registry import Because, Data, Manifest, MovedFirst, Registry
from pipeline.settings import Settings, SettingsError

VALIDATION = 5  # the last of so many parts of the time says when training stops
STALE = 24 * 3_600 * 1_000_000  # us after which a killed run is not gone on with: there are newer data
JOB, CHECKPOINT, SCALES = "job.json", "training", "scales.npz"
UNFINISHED = ".unfinished"  # ends the name of a file that is being written
TRIES = 5  # to move the name, if others move one at the same time
BY = "tidecast retrain"


class Stopped(Exception):  # noqa: N818 - reads as what happened
    """Ctrl-C, or SIGTERM. What has been done is gone on with."""


class Asked(NamedTuple):
    """What a run is to do; `file` None: the topic."""

    settings: Settings
    file: str | None
    fresh: bool  # from random weights, not the champion's
    budget: Budget
    folder: Path  # what a run that is killed leaves to the next

    def said(self) -> dict[str, Any]:
        """What must be the same for a run to go on from what another has left, as plain values."""
        s = self.settings
        about = {"input": s.input, "series": s.series, "time": s.time, "window": s.window}
        return json.loads(  # type: ignore[no-any-return]  # as it comes back from a file
            json.dumps(
                {
                    "application": s.application,
                    "bootstrap": s.kafka.bootstrap,
                    "file": self.file,
                    "fresh": self.fresh,
                    "budget": self.budget._asdict(),
                    "config": dataclasses.asdict(config_of(s)),
                    **{name: section.model_dump(mode="json") for name, section in about.items()},
                }
            )
        )


class Job(NamedTuple):
    """What was fixed when a run began."""

    asked: dict[str, Any]
    at: int  # us
    parent: str | None
    positions: dict[str, tuple[int, int]]


def refuse(asked: Asked) -> None:
    """Raises SettingsError for what a retraining does not do."""
    settings, wrong = asked.settings, []
    device = settings.learn.device
    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        wrong.append(f"learn.device = {device}: PyTorch finds {torch.cuda.device_count()} GPUs here; allowed: auto, cpu")
    if not Learner(dataclasses.replace(config_of(settings), device="cpu")).taught:
        wrong.append(
            f"forecast.model = {settings.forecast.model}: it has no networks to train; allowed: mixture, nets, lstm, gru, elman, jordan"
        )
    if wrong:
        raise SettingsError("\n  ".join(["this cannot be retrained:", *wrong]))


class Run:
    """One retraining, from what it is asked to what it says."""

    def __init__(
        self,
        asked: Asked,
        registry: Registry,
        *,
        held: lease.Lease,
        stop: threading.Event,
        announce: Callable[[Manifest], None],
        console: Console,
    ) -> None:
        """`announce` tells the brokers of a challenger, where there are some."""
        self._asked, self._registry, self._lease, self._stop, self._announce = asked, registry, held, stop, announce
        self._console = console
        self._resumed = False

    def make(self) -> dict[str, Any]:
        """Raises what reading, training and publishing raise, NoHistory, Stopped, lease.Held."""
        began, folder = time.monotonic(), self._asked.folder
        job = self._job()
        config = config_of(self._asked.settings)
        with self._bar() as bar:
            found = history.kept(folder) or self._read(job, bar)
            past = found.past
            first, end = int(past.first.min()), int(past.last.max()) + 1
            until = end - max((end - first) // VALIDATION, 1)
            learner = Learner(config)
            parent, begin = self._begin(job, learner)
            of = self._scales(past, config, until, bar)
            trained = course.train(
                learner,
                past,
                of,
                until=until,
                begin=begin,
                budget=self._asked.budget,
                clock=time.monotonic,
                resume=self._checkpoint(),
                saved=lambda teacher: self._save(teacher.state()),
                told=lambda teacher: self._told(bar, teacher),
                go=training.fit,
            )
        if trained is None:
            raise NoHistory(f"{end - first:,} steps of {len(past.key):,} series are too few to train on")
        step = config.step_us
        data = Data(
            first=rfc3339(first * step), last=rfc3339((end - 1) * step), observations=found.observations, positions=found.positions,
            file=self._asked.file, sha256=found.sha256,
        )  # fmt: skip
        exam = None if begin is None else self._exam(learner, past, of, [begin.weights, trained.weights], until)
        said = self._publish(job, trained, data, parent, config, exam)
        clear(folder)
        return {
            **said,
            "parent": parent,
            "loss": trained.loss,
            "loss_at_start": trained.progress.start,
            "passes": trained.progress.passes,
            "steps": trained.steps,
            "stopped_by": trained.progress.stopped,
            "series": len(past.key),
            "left_out": found.left_out,
            **msgspec.to_builtins(data),
            "forgotten": [] if exam is None else exam,
            "device": str(learner.device),
            "resumed": self._resumed,
            "seconds": round(time.monotonic() - began, 3),
        }

    # What a run leaves to the next

    def _job(self) -> Job:
        folder, said, now = self._asked.folder, self._asked.said(), lease.now_us()
        if (folder / JOB).exists():
            job = Job(**json.loads((folder / JOB).read_text()))
            if job.asked == said and now - job.at < STALE:
                self._resumed = True
                self._console.print(f"going on with the run of {rfc3339(job.at)}, which did not end", highlight=False)
                return job
        elif folder.exists() and any(not path.name.endswith(UNFINISHED) for path in folder.iterdir()):
            raise SettingsError(f"--work: {folder} holds files that are no retraining's, and would be emptied; name another folder")
        clear(folder)
        positions = history.ends_of(self._asked.settings) if self._asked.file is None else {}
        parent = None if self._asked.fresh else self._registry.last().now.champion
        folder.mkdir(parents=True)
        write(folder / JOB, json.dumps(Job(said, now, parent, positions)._asdict()).encode())
        return Job(said, now, parent, positions)

    def _checkpoint(self) -> Parts | None:
        path = self._asked.folder / CHECKPOINT
        if not path.exists():
            return None
        parts: Parts = msgspec.msgpack.decode(path.read_bytes())
        return parts

    def _save(self, parts: Parts) -> None:
        write(self._asked.folder / CHECKPOINT, msgspec.msgpack.encode(parts))

    # Parts of it

    def _read(self, job: Job, bar: Progress) -> History:
        task = bar.add_task("reading", total=None, said="")

        def told(rows: int) -> None:
            self._go_on()
            bar.update(task, completed=rows, said=f"{rows:,} records")

        settings, folder = self._asked.settings, self._asked.folder
        if self._asked.file is not None:
            found = history.of_file(settings, self._asked.file, folder, told=told)
        else:
            found = history.of_topic(settings, job.positions, folder, told=told)
        bar.remove_task(task)
        return found

    def _scales(self, past: Past, config: Config, until: int, bar: Progress) -> Scales:
        path = self._asked.folder / SCALES
        if path.exists():
            with np.load(path) as kept:
                return Scales(**kept)
        task = bar.add_task("looking", total=1.0, said="")

        def told(part: float) -> None:
            self._go_on()
            bar.update(task, completed=part)

        found = scales(past, config, until=until, told=told)
        beside = path.with_name("unfinished.npz")
        np.savez(beside, **found._asdict())
        beside.replace(path)
        bar.remove_task(task)
        return found

    def _begin(self, job: Job, learner: Learner) -> tuple[str | None, Begin | None]:
        """The version to go on from, if its network is the one that is asked for."""
        if job.parent is None:
            return None, None
        manifest, weights = self._registry.whole(job.parent)
        if manifest.shape != shape_of(learner.config):
            self._console.print(f"champion {job.parent} has another network than the settings make: from random weights", highlight=False)
            return None, None
        return job.parent, Begin(weights, self._registry.moments(manifest))

    def _told(self, bar: Progress, teacher: Teacher) -> None:
        self._go_on()
        progress = teacher.progress
        task = bar.tasks[-1].id if bar.tasks else bar.add_task("training", total=course.PASSES, said="")
        said = f"{teacher.steps:,} steps, loss {float(teacher.best.sum()):.4f} (was {progress.start:.4f})"
        bar.update(task, completed=progress.passes, said=said)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
        return Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)

    def _exam(self, learner: Learner, past: Past, of: Scales, weights: list[np.ndarray], until: int) -> list[dict[str, Any]]:
        """What has been forgotten of each old regime that the champion, the first of these weights, knew."""
        ends, losses = examined(learner, past, of, weights, until=until)
        exam = forgotten(losses[0], losses[1], share=self._asked.settings.registry.most_forgotten)
        step = learner.config.step_us
        return [
            {
                "from": rfc3339(int(ends[k]) * step),
                "to": rfc3339(int(ends[k + 1]) * step),
                "rise": rounded(exam.rise[k]),
                "error": rounded(exam.error[k]),
                "lost": bool(exam.lost[k]),
            }
            for k in range(len(exam.rise))
        ]

    def _publish(
        self, job: Job, trained: Trained, data: Data, parent: str | None, config: Config, exam: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        """A version, the challenger, and word of it; nothing where no network has gained, or too much is forgotten."""
        self._lease.check()
        if trained.loss > trained.progress.start - course.LEAST:
            return {"version": parent, "outcome": "no_gain"}
        if self._asked.settings.registry.forgetful == "refuse" and any(regime["lost"] for regime in exam or ()):
            return {"version": parent, "outcome": "forgetful"}
        metrics = {"loss": trained.loss, "loss_at_start": trained.progress.start, "steps": trained.steps, "passes": trained.progress.passes}
        manifest = self._registry.publish(
            trained.weights,
            shape_of(config),
            seed=config.seed,
            data=data,
            metrics=metrics,
            parent=parent,
            at=job.at,
            moments=trained.moments,
        )
        self._nominate(manifest, job)
        self._announce(manifest)
        return {"version": manifest.version, "outcome": "challenger"}

    def _nominate(self, manifest: Manifest, job: Job) -> None:
        because = Because(BY, lease.now_us(), f"trained on data up to {manifest.data.last}, begun at {rfc3339(job.at)}")
        for _ in range(TRIES):
            with suppress(MovedFirst):
                self._registry.nominate(manifest.version, self._registry.last(), because)
                return
        self._registry.nominate(manifest.version, self._registry.last(), because)


def rounded(value: float) -> float | None:
    """For JSON; None: it is not known."""
    return round(float(value), 4) if np.isfinite(value) else None


def write(path: Path, data: bytes) -> None:
    """All of it or nothing, whatever happens to this process."""
    beside = path.with_name(path.name + UNFINISHED)
    beside.write_bytes(data)
    beside.replace(path)


def clear(folder: Path) -> None:
    """Remove what a run has left: its name is free at once, so that a half-removed folder is never taken for somebody else's."""
    over = folder.with_name(f".{folder.name}.retraining-over")
    shutil.rmtree(over, ignore_errors=True)
    if folder.exists():
        folder.rename(over)
        shutil.rmtree(over)


class Report(NamedTuple):
    """Where numbers of a run go."""

    textfile: Path | None = None
    pushgateway: str | None = None
    metrics: RetrainMetrics | None = None  # of who serves them


class Named(Collector):
    """The metrics of a registry with the application as a label: in a node exporter's folder are files of all that run there."""

    def __init__(self, of: CollectorRegistry, application: str) -> None:
        self._of, self._application = of, application

    def collect(self) -> Iterator[Metric]:
        for family in self._of.collect():
            family.samples = [sample._replace(labels={"application": self._application}) for sample in family.samples]
            yield family


def succeeded(said: Mapping[str, Any], report: Report, application: str, console: Console) -> None:
    """A run has ended well."""
    registry = CollectorRegistry()
    for metrics in (RetrainMetrics(registry), *([] if report.metrics is None else [report.metrics])):
        metrics.last_success.set(time.time())
        metrics.duration.set(said["seconds"])
        metrics.failed.set(0)
    tell(registry, registry, report, application, console)


def failed(report: Report, application: str, console: Console) -> None:
    """A run has failed; what is known of the newest that ended well stays."""
    registry = CollectorRegistry()
    metrics = RetrainMetrics(registry)
    known = {} if report.textfile is None else written(report.textfile)
    metrics.last_success.set(known.get("tidecast_retrain_last_success_timestamp_seconds", 0))
    metrics.duration.set(known.get("tidecast_retrain_duration_seconds", 0))
    for each in (metrics, *([] if report.metrics is None else [report.metrics])):
        each.failed.set(time.time())
    tell(registry, registry.restricted_registry([FAILED]), report, application, console)


def written(textfile: Path) -> dict[str, float]:
    """Numbers of an earlier run; none where there is no such file."""
    with suppress(OSError, ValueError):
        return {s.name: s.value for family in text_string_to_metric_families(textfile.read_text(encoding="utf-8")) for s in family.samples}
    return {}


def tell(whole: CollectorRegistry, new: Any, report: Report, application: str, console: Console) -> None:
    """To a textfile all of it, for it has nothing else; to a push gateway what is new."""
    named = CollectorRegistry()
    named.register(Named(whole, application))
    try:
        if report.textfile is not None:
            write_to_textfile(str(report.textfile), named)
        if report.pushgateway is not None:
            pushadd_to_gateway(report.pushgateway, job="tidecast_retrain", registry=new, grouping_key={"application": application})
    except OSError as error:  # what the run was for does not hang on it
        console.print(f"the numbers of this run could not be told: {error}", highlight=False, markup=False)


# Once, and again


Work = Callable[[], dict[str, Any]]


def once(work: Work, held: lease.Lease, slot: int | None = None) -> dict[str, Any]:
    """Under the lease. Raises what the work does, and lease.Held."""
    with held.held(slot):
        return work()


def stay(
    work: Work,
    held: lease.Lease,
    times: schedule.Schedule,
    *,
    stop: threading.Event,
    ended: Callable[[dict[str, Any]], None],
    failed: Callable[[Exception], None],
    now: Callable[[], int] = lease.now_us,
) -> None:
    """A run whenever one is due, until told to stop. One that fails is told of, and has been: the next due time has the next.

    Another instance that is at it has the run; whatever is no known failure goes through.
    """
    begun = times.first(now())
    while not stop.is_set():
        done = held.last().slot
        slot = schedule.due(times, now(), begun if done is None else done)
        if slot is None:
            stop.wait(min(POLL_SECONDS, max((times.after(now()) - now()) / 1e6, 0.01)))
            continue
        try:
            ended(once(work, held, slot))
        except Stopped:
            return
        except lease.Held as error:
            failed(error)
            stop.wait(POLL_SECONDS)
        except Exception as error:  # noqa: BLE001  whoever calls knows which errors are known, and raises the others again
            failed(error)


POLL_SECONDS = 30.0  # a clock may be set, and another instance may have done it
