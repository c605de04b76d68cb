"""Runs bundles: Beam's own operations of one stage, in the calling thread, without its control plane.

A bundle is: start every operation, feed timers or elements, finish. Beam's worker wraps that into protocol messages, a
sampling thread and a report of all metrics per bundle, which costs ten times the bundle (4 ms against 0.4 ms,
tests/benchmarks/bundles.csv); here metrics add up inside the operations and are read once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from apache_beam.metrics.execution import MetricsContainer
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.execution import BundleContextManager
from apache_beam.runners.portability.fn_api_runner.worker_handlers import FNAPI_RUNNER_CAPABILITIES, StateServicer
from apache_beam.runners.worker import bundle_processor, data_plane, sdk_worker, statesampler
from apache_beam.runners.worker.statecache import StateCache

TimerFamily = tuple[str, str]  # transform, name of the family in it


class Deferred(NamedTuple):
    """What a splittable element put off."""

    delay: float  # seconds, as asked for
    watermark: int | None  # us; its estimate of what is still to come
    transform: str  # the input that takes it up again
    element: bytes


class Outcome(NamedTuple):
    """What a bundle leaves behind."""

    outputs: list[tuple[bytes, list[bytes]]]  # (buffer, encoded elements)
    timers: list[tuple[TimerFamily, list[bytes]]]  # set and cleared ones, in order
    deferred: list[Deferred]


class Worker:
    """The operations of one stage. They are made at the first bundle and used again for the next.

    Operations that registered bundle finalizers are set aside until `finalize`, as Beam's contract has it: each bundle in
    between then makes its own.
    """

    def __init__(self, manager: BundleContextManager, state: StateServicer) -> None:
        self._manager = manager
        # No cache: the state is in this process already, and Beam's cache would measure a live object's depth at every write.
        self._state = sdk_worker.GlobalCachingStateHandler(StateCache(0), state)
        self._idle: list[Any] = []
        self._unfinalized: list[Any] = []
        self._made: list[Any] = []
        self._bundles = 0

    def run(self, data: Mapping[str, Sequence[bytes]], timers: Mapping[TimerFamily, bytes]) -> Outcome:
        """One bundle. Raises what the functions in it raise, after which this worker is of no further use."""
        processor = self._idle.pop() if self._idle else self._make()
        outcome = self._process(processor, data, timers)
        if processor.requires_finalization():
            self._unfinalized.append(processor)
        else:
            self._release(processor)
        return outcome

    @property
    def waiting(self) -> bool:
        """There are bundle finalizers to call."""
        return bool(self._unfinalized)

    def finalize(self) -> None:
        """Tell bundle finalizers that what their bundles did is now safe."""
        for processor in self._unfinalized:
            processor.finalize_bundle()
            self._release(processor)
        self._unfinalized.clear()

    def metrics(self) -> Iterable[Any]:
        """Monitoring infos since the start."""
        return [info for processor in self._made for info in processor.monitoring_infos()]

    def close(self) -> None:
        for processor in self._made:
            processor.shutdown()
        self._made.clear()

    def _make(self) -> Any:
        descriptor = beam_fn_api_pb2.ProcessBundleDescriptor()
        descriptor.CopyFrom(self._manager.process_bundle_descriptor)
        channels = data_plane.InMemoryDataChannelFactory(data_plane.InMemoryDataChannel())
        processor = bundle_processor.BundleProcessor(FNAPI_RUNNER_CAPABILITIES, descriptor, self._state, channels)
        self._made.append(processor)
        for (transform, family), info in processor.timers_info.items():
            processor.ops[transform].add_timer_info(family, info)
        return processor

    def _process(self, processor: Any, data: Mapping[str, Sequence[bytes]], timers: Mapping[TimerFamily, bytes]) -> Outcome:
        self._bundles += 1
        ops = processor.ops
        outcome = self._connect(processor)
        context = bundle_processor.ExecutionContext(instruction_id=f"bundle {self._bundles}")
        statesampler.set_current_tracker(processor.state_sampler)  # where Metrics.counter() looks for its container
        with self._state.process_instruction_id(context.instruction_id, ()):
            for op in reversed(ops.values()):
                op.execution_context = context
                op.start()
            for (transform, family), encoded in timers.items():
                for timer in processor.timers_info[transform, family].timer_coder_impl.decode_all(encoded):
                    ops[transform].process_timer(family, timer)
            for transform, chunks in data.items():
                for chunk in chunks:
                    ops[transform].process_encoded(chunk)
            for op in ops.values():
                op.finish()
            for info in processor.timers_info.values():
                info.output_stream.close()
        outcome.deferred.extend(self._deferred(op, residual) for op, residual in context.delayed_applications)
        return outcome

    def _connect(self, processor: Any) -> Outcome:
        """New streams behind the outputs of a stage and its timers; what they take lands in the outcome."""
        outcome = Outcome([], [], [])
        for op in processor.ops.values():
            if isinstance(op, bundle_processor.DataOutputOperation):
                chunks: list[bytes] = []
                op.set_output_stream(stream(chunks))
                outcome.outputs.append((self._manager.stage_data_outputs[op.transform_id], chunks))
        for family, info in processor.timers_info.items():
            chunks = []
            info.output_stream = stream(chunks)
            outcome.timers.append((family, chunks))
        return outcome

    def _deferred(self, op: Any, residual: Any) -> Deferred:
        element, watermark, delay = residual
        transform, tag, coder, _ = op.input_info
        return Deferred(
            delay.micros / 1e6 if delay else 0.0,
            watermark.micros if watermark is not None else None,
            self._manager.input_for(transform, tag),
            coder.get_impl().encode_nested(element),
        )

    def _release(self, processor: Any) -> None:
        for op in processor.ops.values():
            # `reset` forgets the bundle's state handles and side inputs, which is wanted, and the user's metrics, which is not.
            counted, op.metrics_container = op.metrics_container, MetricsContainer("")
            op.reset()
            op.metrics_container = counted
        self._idle.append(processor)


def stream(chunks: list[bytes]) -> Any:
    """A stream whose bytes are appended to `chunks`, in pieces of at most a few MB."""
    return data_plane.ClosableOutputStream.create(chunks.append, chunks.append, 0)
