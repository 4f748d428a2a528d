"""What the supervisor does itself gives signs of life: whoever looks at `progress.json` sees it get on."""

import json
import logging

import numpy as np
import pytest

from mnrl_job.batching.planning import PlanConfig, SourceShare, plan_epochs
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.runs import status
from mnrl_job.storage import LocalStore
from mnrl_job.storage.transfer import download
from mnrl_job.system import heartbeat
from tests.data.reading import read
from tests.examples import write_jsonl


@pytest.fixture(autouse=True)
def _every_beat_is_told(monkeypatch):
    monkeypatch.setattr(heartbeat, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_LINES", 0.0)


def beats(work):
    """How often a piece of work gave a sign of life."""
    told = []
    with heartbeat.heartbeats_to(lambda _: told.append(1)):
        work()
    return len(told)


def write_rows(path, count):
    write_jsonl(path, ({"anchor": f"question {i}", "positive": f"answer {i}"} for i in range(count)))
    return path


def test_reading_fetching_comparing_and_planning_give_signs_of_life(tmp_path):
    path = write_rows(tmp_path / "in" / "pairs.jsonl", 25_000)
    store = LocalStore(tmp_path / "in", "the input")
    texts = [f"answer number {i % 12_000} to a question" for i in range(24_000)]
    write_columns(tmp_path / "texts.arrow", text=texts)
    rule = PlanConfig(4, (SourceShare(40),))
    groups = np.arange(80).reshape(40, 2)
    assert beats(lambda: list(read_rows(path))) == 2
    assert beats(lambda: download(store, list(store.list_objects()), tmp_path / "copy")) >= 1
    assert beats(lambda: compute_signatures([Column(tmp_path / "texts.arrow", "text")], None, tmp_path / "signed")) == 3
    assert beats(lambda: plan_epochs(groups, rule, (10,), seed=1, epochs=3, max_steps=None)) == 3


def test_progress_tells_how_much_is_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    told = status.Status(tmp_path / "progress.json", "r", grace_seconds=30, hang_seconds=600)
    told.enter("prepare")
    with heartbeat.heartbeats_to(told.progress):
        read(tmp_path, write_rows(tmp_path / "pairs.jsonl", 12_000))
    content = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert (content["phase"], content["rows_read"]) == ("prepare", 12_000)
    assert "prepare: 12000 rows read so far" in caplog.text
