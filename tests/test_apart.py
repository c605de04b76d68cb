"""Learning in a process of its own: the same numbers, and nobody is left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from arrivals import Stream, small, wavy

from models import apart as module
from models.apart import Apart, Gone
from models.learner import Learner


class Beside(Stream):
    """A stream whose exercises run in a child."""

    apart = None

    def settle(self):
        if self.begun is not None:
            if self.begun.wanted:
                self.apart.start(self.begun)
                self.apart.wait(self.begun)
            self.decisions += self.learner.finish(self.begun)
            self.begun = None


def ready(apart):
    until = time.monotonic() + 60
    while not apart.ready():
        assert time.monotonic() < until
        time.sleep(0.05)
    return apart


@pytest.fixture
def apart():
    made = []

    def make(learner):
        made.append(Apart(learner))
        return ready(made[-1])

    yield make
    for one in made:
        one.close()


def test_a_child_learns_bit_for_bit_what_its_parent_would(apart):
    values = wavy(40, 4)
    here, there = Stream(values, small()), Beside(values, small())
    there.apart = apart(there.learner)
    here.play()
    there.play(np.random.default_rng(1))
    assert there.said == here.said
    assert there.learner.digest() == here.learner.digest()
    assert there.learner.descent.state.equal(here.learner.descent.state)
    assert there.learner.descent.counts() == here.learner.descent.counts()
    assert there.learner.descent.steps > 20


def test_a_restart_goes_on_in_a_new_child(apart):
    values = wavy(40, 4)
    whole = Stream(values, small()).play()
    first = Beside(values[:20], small())
    first.apart = apart(first.learner)
    first.play()
    second = Beside(values, small(), learner=Learner.restore(small(), first.learner.snapshot()))
    second.apart = apart(second.learner)
    second.at, second.closed, second.kept = first.at, first.closed, first.kept
    second.play()
    assert second.learner.digest() == whole.learner.digest()


@pytest.mark.parametrize("cause", ["input", "loss"])
def test_a_step_that_is_not_finite_is_skipped_there_too(apart, cause):
    stream = Beside(wavy(12, 3), small())
    stream.apart = apart(stream.learner)
    stream.play()
    begun = stream.learner.begin(stream_cells(stream), instant=13, drop=[])
    (begun.whole.target if cause == "input" else begun.descent.weights)[:] = np.nan
    stream.begun = begun
    stream.settle()
    assert [(d.kind, d.cause) for d in stream.decisions][-1:] == [("skip", cause)]
    assert torch.isfinite(stream.learner.descent.weights).all() == (cause == "input")


def stream_cells(stream):
    from models.learner import Cells

    order = np.argsort(stream.keys)
    return Cells(stream.slots[order], stream.keys[order], np.full(3, stream.first + 12), np.ones(3))


def test_a_child_that_dies_is_an_error_that_says_so(apart):
    stream = Beside(wavy(12, 3), small())
    stream.apart = apart(stream.learner)
    stream.apart._child.send_signal(signal.SIGKILL)
    with pytest.raises(Gone, match=r"has ended.*exit code -9"):
        stream.play()


def test_a_child_that_has_been_stopped_is_given_up(apart, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.0)
    stream = Beside(wavy(12, 3), small())
    stream.apart = apart(stream.learner)
    stream.apart._child.send_signal(signal.SIGSTOP)
    with pytest.raises(Gone, match=r"did not answer"):
        stream.play()
    assert stream.apart._child.poll() is not None


def test_a_signal_to_all_processes_does_not_end_it_before_its_parent(apart):
    values = wavy(20, 3)
    stream = Beside(values, small())
    stream.apart = apart(stream.learner)
    for number in (signal.SIGTERM, signal.SIGINT):
        stream.apart._child.send_signal(number)
    assert stream.play().learner.digest() == Stream(values, small()).play().learner.digest()


def test_a_child_that_cannot_load_is_known_to_have_failed(monkeypatch, capfd):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    one = Apart(Learner(small()))
    until = time.monotonic() + 20
    while not one.failed:
        assert not one.ready()
        assert time.monotonic() < until
    one.close()


ORPHAN = """
import time
from models.apart import Apart
from models.learner import Config, Learner
apart = Apart(Learner(Config(hidden=16)))
while not apart.ready():
    time.sleep(0.05)
print(apart._child.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    child = Path("/proc", parent.stdout.readline().strip())
    assert child.exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while child.exists():
        assert time.monotonic() < until, "it has outlived its parent"
        time.sleep(0.05)
