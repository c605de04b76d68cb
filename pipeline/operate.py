"""Put the parts together and keep them going: live on brokers, over a file, or on another Beam runner."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions
from kafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from models.learner import Config
from pipeline import broker, consume, engine, learn, metrics, publish, topics
from pipeline.decode import Decoder, decoder_settings
from pipeline.flow import flow
from pipeline.gather import LedgerBroken, Rules
from pipeline.learn import LiveShard, Spec
from pipeline.metrics import Metrics
from pipeline.records import Source
from pipeline.settings import Settings, kafka_options
from pipeline.summary import summary

LOG = structlog.get_logger()

# Errors that say themselves what to do, and the command's exit code for each; everything else is a bug.
NAMED: tuple[tuple[type[BaseException], int], ...] = ()
