"""Data that others gave, as they gave it, with their notices beside it."""

import gzip
import hashlib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NOTICES = {TESTS / "data": "README.md", TESTS.parent / "pipeline" / "data": "NOTICE"}


@pytest.mark.parametrize("file", [file for folder in NOTICES for file in sorted(folder.glob("*.gz"))], ids=lambda file: file.name)
def test_data_is_unmodified_and_has_a_notice(file):
    notice = (file.parent / NOTICES[file.parent]).read_text()
    assert file.name in notice
    assert hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest() in notice
