"""What a batch's embeddings look like, and when that is an alarm."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mnrl_job.data.tables import NO_GROUP
from mnrl_job.training.callbacks.progress import Progress, RecordedStep
from mnrl_job.training.losses import embedding_stats as checks
from mnrl_job.training.losses.embedding_stats import CollapseDetector, EmbeddingStats, compute_stats, to_embedding_stats
from tests.training.losses.embeddings import batch_labels

GOOD = EmbeddingStats(0.9, 0.125, 0.8, 0.2, 0.1)


def stats_of(queries, documents, labels):
    return to_embedding_stats(compute_stats(queries, documents, batch_labels(labels)))


@pytest.fixture
def batch():
    """Eight rows of unrelated texts with a negative each."""
    torch.manual_seed(1)
    queries = normalize(torch.randn(8, 16))
    documents = normalize(torch.cat([queries + 0.4 * torch.randn(8, 16), torch.randn(8, 16)]))
    rows = torch.arange(8)
    return queries, documents, torch.stack([rows.repeat(2), 100 + rows.repeat(2), 200 + torch.arange(16)], dim=1)


def test_statistics_equal_a_direct_computation(batch):
    queries, documents, _labels = batch
    found = stats_of(*batch)
    scores = queries @ documents.T
    positives = scores.diagonal()
    others = scores.masked_fill(torch.eye(8, 16, dtype=torch.bool), -2)
    assert found.in_batch_accuracy == pytest.approx((positives > others.amax(dim=1)).float().mean().item(), abs=1e-5)
    assert found.chance == pytest.approx(1 / 16, abs=1e-5)
    assert found.positive_score == pytest.approx(positives.mean().item(), abs=1e-5)
    assert found.hardest_negative_score == pytest.approx(others.amax(dim=1).mean().item(), abs=1e-5)
    between = documents[:8] @ documents[:8].T
    assert found.anisotropy == pytest.approx((between.sum().item() - 8) / 56, abs=1e-5)


def test_a_false_negative_does_not_count(batch):
    queries, documents, labels = batch
    documents = documents.clone()
    documents[1] = queries[0]
    assert stats_of(queries, documents, labels).in_batch_accuracy < 1
    labels[1, 2] = labels[0, 2]
    documents[8:] = documents[0]
    labels[8:, 2] = NO_GROUP
    found = stats_of(queries, documents, labels)
    assert found.hardest_negative_score < 1
    assert found.chance == pytest.approx((6 / 8 + 2 / 7) / 8, abs=1e-5)


def test_only_a_sample_of_a_large_batch_is_looked_at_and_all_of_it_scored(batch, monkeypatch):
    whole = stats_of(*batch)
    monkeypatch.setattr(checks, "SAMPLED_ROWS", 4)
    queries, documents, _labels = batch
    even = stats_of(*batch)
    assert even.positive_score == pytest.approx((queries @ documents.T).diagonal()[::2].mean().item(), abs=1e-5)
    assert even.chance == whole.chance
    monkeypatch.setattr(checks, "TILE_BYTES", 1)
    assert stats_of(*batch).positive_score == pytest.approx((queries[0] @ documents[0]).item(), abs=1e-5)


def test_without_negatives_statistics_are_none(batch):
    queries, documents, labels = batch
    labels[:, 1] = 7
    found = stats_of(queries, documents[:8], labels[:8])
    assert (found.in_batch_accuracy, found.chance, found.hardest_negative_score) == (None, None, None)
    assert CollapseDetector().update(found) is None


def test_similar_unrelated_documents_are_a_collapse():
    same = normalize(torch.ones(8, 16))
    labels = torch.arange(24).reshape(8, 3)
    found = stats_of(same, same, labels)
    assert (found.in_batch_accuracy, found.anisotropy) == (0.0, 1.0)
    alarm = CollapseDetector()
    assert [alarm.update(GOOD) for _ in range(5)] == [None] * 4 + [""]
    alike = replace(found, in_batch_accuracy=0.9)
    messages = [alarm.update(alike) for _ in range(5)]
    assert messages[:4] == [""] * 4
    assert messages[4] == "unrelated documents look alike: their mean cosine similarity rose from 0.10 to 1.00"


def test_five_steps_are_enough_where_the_first_was_good():
    alarm = CollapseDetector()
    messages = [alarm.update(replace(GOOD, anisotropy=value)) for value in (0.79, 1.0, 1.0, 1.0, 1.0)]
    assert messages == [None] * 4 + [
        "unrelated documents look alike: their mean cosine similarity rose from 0.79 to 0.96"
    ]


@pytest.mark.parametrize(
    ("before", "after", "collapsed"),
    [
        (0.7, 0.96, True),
        (0.92, 0.96, False),
        (0.949, 0.951, False),
        (0.96, 0.97, False),
        (0.96, 0.99, False),
        (0.96, 0.997, True),
        (0.99, 1.0, False),
        (1, 1, False),
    ],
)
def test_documents_similar_from_the_start_are_no_collapse(before, after, collapsed):
    alarm = CollapseDetector()
    alarm.update(replace(GOOD, anisotropy=before))
    messages = [alarm.update(replace(GOOD, anisotropy=after)) for _ in range(10)]
    assert ("look alike" in messages[-1]) == collapsed
    lost = replace(GOOD, anisotropy=after, in_batch_accuracy=0.1)
    assert "the in-batch accuracy fell" in [alarm.update(lost) for _ in range(5)][-1]


def test_positives_that_are_no_longer_found_are_an_alarm_and_ones_that_never_were_are_not():
    guessing = EmbeddingStats(0.1, 0.125, 0.5, 0.5, 0.1)
    alarm = CollapseDetector()
    assert [alarm.update(GOOD) for _ in range(10)] == [None] * 4 + [""] * 6
    messages = [alarm.update(guessing) for _ in range(5)]
    assert messages[:4] == [""] * 4
    assert messages[4] == "the in-batch accuracy fell from 0.90 to 0.10; random guessing gives 0.12"
    never = CollapseDetector()
    assert [never.update(guessing) for _ in range(10)] == [None] * 4 + [""] * 6


@pytest.fixture
def progress(tmp_path):
    """Follows a training of 12 steps that goes well for 6 and collapses then; made anew, as by another attempt."""

    def follow(attempts=1):
        log = tmp_path / "training_log.jsonl"
        for number in range(attempts):
            one = Progress(log, np.zeros((12, 8), dtype=np.int64), SimpleNamespace(), None, is_main=True)
            start = number * 12 // attempts
            one._truncate_log(start)
            for step in range(start + 1, (number + 1) * 12 // attempts + 1):
                checks = GOOD if step <= 6 else replace(GOOD, anisotropy=0.99)
                one.loss = 0.5
                one._log(RecordedStep(step, 0.0, 1e-5, 1, 0.1, 0, {}), {"loss": 0.5}, checks)
        return one

    return follow


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_whether_the_embeddings_collapsed_is_known_of_each_step_also_by_the_next_attempt(progress, attempts):
    followed = progress(attempts)
    assert followed.collapse(4) is None
    assert followed.collapse(5) == followed.collapse(10) == ""
    assert "rose from 0.10 to 0.99" in followed.collapse(12)


def test_the_last_loss_is_known_where_nothing_is_logged_any_more(tmp_path):
    """As on a node that does not tell, and goes on from a checkpoint of the last step."""
    one = Progress(tmp_path / "log", np.zeros((12, 8), dtype=np.int64), SimpleNamespace(), None, is_main=False)
    history = [{"loss": 0.75, "step": 11}, {"loss": "0.5", "step": 12}, {"eval_ndcg@10": 1.0, "step": 12}]
    one.on_train_begin(None, SimpleNamespace(global_step=12, log_history=history), None)
    assert one.loss == 0.5


def test_a_training_logs_them_and_trains_no_differently(run, model, tiny_model, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    _, losses = run(model)
    lines = [json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]
    assert len(lines) == 4
    for line in lines:
        assert line["chance"] == pytest.approx(1 / 8)
        assert 0 <= line["in_batch_accuracy"] <= 1
        assert line["hardest_negative_score"] <= 1 >= line["positive_score"]
        assert line["memory_bytes"] > 10_000_000
        assert line["collapse"] is None
    monkeypatch.setattr("mnrl_job.training.losses.mnrl.compute_stats", lambda *_: None)
    unwatched = SentenceTransformer(str(tiny_model), device="cpu")
    assert run(unwatched)[1] == losses
    for one, other in zip(model.parameters(), unwatched.parameters(), strict=True):
        assert torch.equal(one, other)
