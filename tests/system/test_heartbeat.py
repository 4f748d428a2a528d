"""The supervisor's own work sends heartbeats, so that `progress.json` shows its progress."""

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
from mnrl_job.system.phases import Phase
from mnrl_job.system.threads import parallel
from tests.data.reading import read
from tests.examples import write_jsonl


@pytest.fixture(autouse=True)
def _report_every_heartbeat(monkeypatch):
    monkeypatch.setattr(heartbeat, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_LINES", 0.0)


def count_heartbeats(work):
    heartbeats = []
    with heartbeat.heartbeats_to(heartbeats.append):
        work()
    return len(heartbeats)


def write_rows(path, count):
    write_jsonl(path, ({"anchor": f"question {i}", "positive": f"answer {i}"} for i in range(count)))
    return path


def test_reading_downloading_deduplicating_and_planning_send_heartbeats(tmp_path):
    path = write_rows(tmp_path / "in" / "pairs.jsonl", 25_000)
    store = LocalStore(tmp_path / "in", "the input")
    texts = [f"answer number {i % 12_000} to a question" for i in range(24_000)]
    write_columns(tmp_path / "texts.arrow", text=texts)
    config = PlanConfig(4, (SourceShare(40),), seed=1, epochs=3)
    groups = np.arange(80).reshape(40, 2)
    assert count_heartbeats(lambda: list(read_rows(path))) == 2
    assert count_heartbeats(lambda: download(store, list(store.list_objects()), tmp_path / "copy")) >= 1
    assert (
        count_heartbeats(
            lambda: compute_signatures([Column(tmp_path / "texts.arrow", "text")], None, tmp_path / "signed")
        )
        == 3
    )
    assert count_heartbeats(lambda: list(plan_epochs(groups, config))) == 3


def test_progress_has_the_number_of_rows_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    current = status.Status(tmp_path / "progress.json", "r", grace_seconds=30, hang_seconds=600)
    current.enter_phase(Phase.PREPARE)
    with heartbeat.heartbeats_to(current.on_progress):
        read(tmp_path, write_rows(tmp_path / "pairs.jsonl", 12_000))
    content = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert (content["phase"], content["rows_read"]) == ("prepare", 12_000)
    assert "prepare: 12000 rows read so far" in caplog.text


def test_facts_of_an_earlier_phase_are_not_logged_again(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_LINES", 0.0)
    run_status = status.Status(tmp_path / "progress.json", "r", grace_seconds=30, hang_seconds=600)
    run_status.enter_phase(Phase.PREPARE)
    run_status.on_progress({"rows_read": 24})
    run_status.enter_phase(Phase.TRAIN)
    run_status.on_progress({"rows_read": 24})
    assert [record.message for record in caplog.records] == ["prepare: 24 rows read so far"]


def test_threads_of_a_worker_can_send_heartbeats_at_once(tmp_path, monkeypatch):
    """As one that downloads in the background while it trains."""
    monkeypatch.setenv(heartbeat.FILE, str(tmp_path / "heartbeat.json"))
    parallel(lambda _: [heartbeat.heartbeat() for _ in range(300)], range(4))
    assert json.loads((tmp_path / "heartbeat.json").read_text())["heartbeats"] > 0
