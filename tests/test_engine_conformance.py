"""Beam's own suite for its local runner, run on ours. The table of deviations is complete: it says what differs, and why."""

from __future__ import annotations

import functools
import unittest

import apache_beam as beam
import pytest

from pipeline.engine import LocalRunner

DEVIATIONS: dict[str, str] = {}


@functools.cache
def suite() -> type[unittest.TestCase]:
    """Beam's tests, with pipelines of ours."""
    from apache_beam.runners.portability.fn_api_runner.fn_runner_test import FnApiRunnerTest

    class Suite(FnApiRunnerTest):
        def create_pipeline(self, is_drain: bool = False) -> beam.Pipeline:
            runner = LocalRunner()
            runner._is_drain = is_drain  # how Beam's translation is told; nobody else asks for a drain
            return beam.Pipeline(runner=runner)

    return Suite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.config.addinivalue_line("markers", "it_validatesrunner: Beam's own")  # its module cannot be imported without
    metafunc.parametrize("name", unittest.TestLoader().getTestCaseNames(suite()))


@pytest.mark.filterwarnings("ignore")  # Beam's tests warn by themselves
def test_conforms(name: str) -> None:
    result = unittest.TestResult()
    suite()(name).run(result)
    faults = [*result.errors, *result.failures, *result.skipped]
    if name in DEVIATIONS:
        assert faults, f"{name} passes: strike it from the table"
    else:
        assert not faults, faults[0][1]
