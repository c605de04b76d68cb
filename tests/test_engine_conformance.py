"""Beam's own suite for its local runner, run on ours. The table of deviations is complete: it says what differs, and why."""

from __future__ import annotations

import functools
import unittest
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import pytest

from pipeline.engine import LocalRunner

DEVIATIONS = {
    "test_teststream_pardo_timers": "TestStream is an input for tests that the engine does not know; Beam skips this one everywhere",
}
# They wait for the wall clock, 14 s each: all at once.
SLEEPERS = ("test_pardo_et_timer_with_no_firing", "test_pardo_et_timer_with_no_reset", "test_pardo_et_timer_with_no_reset_and_no_clear")


@functools.cache
def suite() -> type[unittest.TestCase]:
    """Beam's tests, with pipelines of ours."""
    from apache_beam.runners.portability.fn_api_runner.fn_runner_test import FnApiRunnerTest

    class Suite(FnApiRunnerTest):
        def create_pipeline(self, is_drain: bool = False) -> beam.Pipeline:
            runner = LocalRunner()
            runner._is_drain = is_drain  # how Beam's translation is told; nobody else asks for a drain
            return beam.Pipeline(runner=runner)

    for name in unittest.TestLoader().getTestCaseNames(Suite):
        test = getattr(Suite, name)
        if getattr(test, "__unittest_skip__", False):
            setattr(Suite, name, test.__wrapped__)  # Beam skips what fails or is slow on runners of its own; ours is asked
    return Suite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.config.addinivalue_line("markers", "it_validatesrunner: Beam's own")  # its module cannot be imported without
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", unittest.TestLoader().getTestCaseNames(suite()))


def faults(name: str) -> list[str]:
    """What one of Beam's tests complains of; being skipped is a complaint."""
    result = unittest.TestResult()
    suite()(name).run(result)
    return [text for _, text in (*result.errors, *result.failures, *result.skipped)]


@functools.cache
def faults_of_sleepers() -> dict[str, list[str]]:
    with ThreadPoolExecutor(len(SLEEPERS)) as pool:
        return dict(zip(SLEEPERS, pool.map(faults, SLEEPERS), strict=True))


@pytest.mark.filterwarnings("ignore")  # Beam's tests warn by themselves
def test_conforms(name: str) -> None:
    found = faults_of_sleepers()[name] if name in SLEEPERS else faults(name)
    if name in DEVIATIONS:
        assert found, f"{name} passes: strike it from the table"
    else:
        assert not found, found[0]


def test_the_table_of_deviations_names_tests_that_exist() -> None:
    assert set(DEVIATIONS) <= set(unittest.TestLoader().getTestCaseNames(suite()))
