"""The graph that a job walks: stages in order, the buffers between them, groups and side inputs in those buffers."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import execution, translations
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.fn_api_runner.worker_handlers import WorkerHandlerManager
from apache_beam.runners.worker import bundle_processor

from pipeline.engine.bundles import TimerFamily, Worker
from pipeline.engine.errors import EngineError
from pipeline.engine.groups import Group
from pipeline.engine.stages import MAX, MIN, Stage, Timers

Impulses = list[tuple[Stage, str, bytes]]  # stage, input, encoded element


class Graph:
    """Stages in topological order, and who writes and reads the buffers between them.

    Side inputs are collected until those who write them can write no more, then given to the stages that need them.
    """

    def __init__(self, context: translations.TransformContext, fused: list[translations.Stage], provision: ExtendedProvisionInfo) -> None:
        self._handlers = WorkerHandlerManager(context.components.environments, provision)
        for stage in fused:
            refuse_foreign(stage, context)
        layout = [(stage, *ends(stage)) for stage in fused]  # before `setup`, which overwrites the buffers' names
        self.pipeline = fingerprint(fused)
        self.context = execution.FnApiRunnerExecutionContext(
            fused, self._handlers, context.components, context.safe_coders, context.data_channel_coders, 1
        )
        self.context.setup()
        self.state = self._handlers.state_servicer
        self.stages = [self._stage(stage, inputs) for stage, inputs, _ in layout]
        by_name = {stage.name: stage for stage in self.stages}
        self.writers: dict[bytes, list[Stage]] = defaultdict(list)
        self.readers: dict[bytes, list[tuple[Stage, str]]] = defaultdict(list)
        for stage, inputs, outputs in layout:
            for buffer in outputs:
                self.writers[buffer].append(by_name[stage.name])
            for transform, read in inputs.items():
                if read is not None:
                    self.readers[read].append((by_name[stage.name], transform))
        self.groups = {buffer: self._group(buffer) for buffer in self.readers if translations.split_buffer_id(buffer)[0] == "group"}
        self._uses: dict[bytes, dict[Any, Any]] = defaultdict(dict)  # side input buffer -> its uses, as Beam wants them
        for producer, uses in self.context.side_input_descriptors_by_stage.items():
            for use, (buffer, pattern) in uses.items():
                self._uses[buffer][use] = (buffer, pattern)
                if not self.writers[buffer]:
                    self.writers[buffer].append(by_name[producer])
        self.collected: dict[bytes, list[bytes]] = {buffer: [] for buffer in self._uses}  # not yet given out
        self.shared: set[bytes] = set()  # given out

    def impulses(self) -> Impulses:
        """What starts the pipeline."""
        by_name = {stage.name: stage for stage in self.stages}
        queues = self.context.queues
        entries = [queues.ready_inputs.deque() for _ in range(len(queues.ready_inputs))]
        entries += [
            (name, data)
            for (name, _), data in (queues.watermark_pending_inputs.deque() for _ in range(len(queues.watermark_pending_inputs)))
        ]
        return [
            (by_name[name], transform, chunk) for name, entry in entries for transform, chunks in entry.data.items() for chunk in chunks
        ]

    def write(self, buffer: bytes, chunk: bytes) -> None:
        """A stage's output: into a group, which may let panes out, or straight to whoever reads it."""
        group = self.groups.get(buffer)
        self.deliver(buffer, chunk if group is None else group.add(chunk))

    def deliver(self, buffer: bytes, chunk: bytes) -> None:
        """Encoded elements to the readers of a buffer."""
        if not chunk:
            return
        if buffer in self.collected:
            self.collected[buffer].append(chunk)
        for stage, transform in self.readers.get(buffer, ()):
            stage.deliver(transform, chunk)

    def advance(self, stage: Stage, now: float) -> None:
        """Raise a stage's input watermark to what those before it have passed, and let groups in between fire."""
        watermark = MAX
        for buffer in stage.inputs.values():
            if buffer is None:
                continue
            upstream = min((writer.passed for writer in self.writers[buffer]), default=MAX)
            group = self.groups.get(buffer)
            if group is not None:
                if upstream > group.watermark or group.clocked:
                    self.deliver(buffer, group.advance(upstream, now))
                upstream = min(upstream, group.hold)
            watermark = min(watermark, upstream)
        stage.arrive(watermark)

    def share(self) -> bool:
        """Give out the side inputs that are complete; True if there were any."""
        complete = [buffer for buffer in self.collected if min((w.passed for w in self.writers[buffer]), default=MIN) >= MAX]
        for buffer in complete:
            _, collection = translations.split_buffer_id(buffer)
            coder = self._coder(collection).get_impl()
            gathered = self.context.pcoll_buffers[buffer] = execution.ListBuffer(coder)
            for chunk in self.collected.pop(buffer):
                gathered.append(chunk)
            self.context.commit_side_inputs_to_state(self._uses[buffer])
            del self.context.pcoll_buffers[buffer]
            self.shared.add(buffer)
        return bool(complete)

    def ready(self, stage: Stage) -> bool:
        """All its side inputs are there."""
        return stage.needs <= self.shared

    def close(self) -> None:
        for stage in self.stages:
            stage.worker.close()
        self._handlers.close_all()

    def _stage(self, fused: translations.Stage, inputs: dict[str, bytes | None]) -> Stage:
        manager = self.context.bundle_manager_for(fused)
        self._handlers.register_process_bundle_descriptor(manager.process_bundle_descriptor)
        stage = Stage(
            name=fused.name,
            worker=Worker(manager, self.state),
            inputs=inputs,
            needs=frozenset(translations.create_buffer_id(collection) for collection in fused.side_inputs()),
            splits=any(t.spec.urn == common_urns.sdf_components.PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS.urn for t in fused.transforms),
        )
        stage.coders = {transform: manager.get_input_coder_impl(transform) for transform in inputs}
        for family, (_, domain) in manager.stage_timer_outputs.items():
            stage.timers[family] = timers(manager, family, domain)
        return stage

    def _group(self, buffer: bytes) -> Group:
        components = self.context.pipeline_components
        name = translations.split_buffer_id(buffer)[1]
        transform = components.transforms[name]
        before = translations.only_element(list(transform.inputs.values()))
        after = translations.only_element(list(transform.outputs.values()))
        strategy = self.context.safe_windowing_strategies[components.pcollections[before].windowing_strategy_id]
        windowing = self.context.pipeline_context.windowing_strategies[strategy]
        return Group(transform.unique_name, self._coder(before), self._coder(after), windowing)

    def _coder(self, collection: str) -> Any:
        """The coder of a PCollection on its way between stages."""
        return self.context.pipeline_context.coders[self.context.safe_coders[self.context.data_channel_coders[collection]]]


def timers(manager: execution.BundleContextManager, family: TimerFamily, domain: int) -> Timers:
    return Timers(manager.get_timer_coder_impl(*family), event=domain == beam_runner_api_pb2.TimeDomain.EVENT_TIME)


def ends(stage: translations.Stage) -> tuple[dict[str, bytes | None], list[bytes]]:
    """The inputs of a fused stage with the buffers they read (None: an impulse), and the buffers it writes."""
    inputs: dict[str, bytes | None] = {}
    outputs: list[bytes] = []
    for transform in stage.transforms:
        if transform.spec.urn == bundle_processor.DATA_INPUT_URN:
            payload = transform.spec.payload
            inputs[transform.unique_name] = None if payload == translations.IMPULSE_BUFFER else payload
        elif transform.spec.urn == bundle_processor.DATA_OUTPUT_URN:
            outputs.append(transform.spec.payload)
    return inputs, outputs


def refuse_foreign(stage: translations.Stage, context: translations.TransformContext) -> None:
    """Everything runs in this process: another language, or another process, has no place here."""
    if stage.environment is None:  # a flatten of ours
        return
    environment = context.components.environments[stage.environment]
    if environment.urn != python_urns.EMBEDDED_PYTHON:
        raise EngineError(f"stage {stage.name} asks for the environment {environment.urn}; the local engine runs Python in its own process")


def fingerprint(fused: list[translations.Stage]) -> str:
    """Tells pipelines apart whose snapshots do not fit each other: their stages, transforms and buffers, not their code."""
    names = [[stage.name, *(f"{t.unique_name} {t.spec.urn}" for t in stage.transforms)] for stage in fused]
    return hashlib.sha256(repr(names).encode()).hexdigest()
