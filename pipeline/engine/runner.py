"""The runner: Beam's own translation and fusion, with our loop underneath."""

from __future__ import annotations

from typing import Any

from apache_beam.runners.portability.fn_api_runner import fn_runner, translations
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.engine.graph import Graph
from pipeline.engine.job import Job
from pipeline.engine.protocols import Durability


class Result(PipelineResult):
    """A job that runs, or has ended."""

    def __init__(self, job: Job) -> None:
        super().__init__(PipelineState.RUNNING)
        self._job = job

    @property
    def state(self) -> str:
        """A Beam PipelineState."""
        return self._job.state

    def wait_until_finish(self, duration: int | None = None) -> str:
        """Wait for the end, at most `duration` milliseconds. Returns the state; raises what ended a failed job."""
        self._job.thread.join(None if duration is None else duration / 1000)
        if self._job.error is not None:
            raise self._job.error
        return self.state

    def stop(self) -> None:
        """End after the bundle under way, commit, keep every position: the next start goes on as if nothing had been.

        Returns at once; a signal handler may call it.
        """
        self._job.end(PipelineState.DONE)

    def cancel(self) -> str:
        """End after the bundle under way without a commit: what came after the last one will be repeated."""
        self._job.end(PipelineState.CANCELLED)
        return self.wait_until_finish()

    def metrics(self) -> fn_runner.FnApiMetrics:
        """The users' metrics, once the job has ended."""
        return fn_runner.FnApiMetrics(self._job.metrics, user_metrics_only=True)


class LocalRunner(fn_runner.FnApiRunner):
    """Runs a Beam pipeline in this process, streaming, in one thread.

    Without durability it ends when everything is done and forgets; with it, it continues from the last commit.
    """

    def __init__(self, durability: Durability | None = None) -> None:
        super().__init__()
        self._durability = durability

    def run_stages(self, stage_context: translations.TransformContext, stages: list[Any]) -> Result:
        """Called by Beam with the fused stages of a pipeline."""
        job = Job(Graph(stage_context, stages, self._provision_info), self._durability)
        job.thread.start()
        return Result(job)
