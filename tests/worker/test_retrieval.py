"""Ranking: the same figures as the library's evaluator gives."""

import json

import pytest
import torch

from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.evaluation.qrels import Qrels
from mnrl_job.worker.retrieval import estimate_seconds, evaluate, rank
from tests.examples import PAIRS
from tests.waits import counted_waits


def test_metrics_equal_the_librarys_evaluator(model, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))} | {("q0", "d3"): 1}
    eval_set = write_evalset("s", "", tmp_path, EvalData(queries, corpus, grades))
    ours = evaluate(model, eval_set, "fp32", METRIC_CUTOFFS, tmp_path / "results.jsonl")
    relevant = {q: {d for (query, d) in grades if query == q} for q in queries}
    library = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, ndcg_at_k=[10], mrr_at_k=[10])
    theirs = library(model)
    assert ours.metrics["ndcg@10"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-6)
    assert ours.metrics["mrr@10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-6)
    assert ours.metrics["accuracy@3"] == pytest.approx(theirs["cosine_accuracy@3"], abs=1e-6)
    assert ours.metrics["recall@5"] == pytest.approx(theirs["cosine_recall@5"], abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["query_id"] for line in lines] == list(queries)


def test_with_embeddings_cut_they_do_too(model, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    relevant = {f"q{i}": {f"d{i}"} for i in range(len(PAIRS))}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))}
    eval_set = write_evalset("s", "", tmp_path, EvalData(queries, corpus, grades))
    ours = evaluate(model, eval_set, "fp32", METRIC_CUTOFFS, tmp_path / "results.jsonl", (32, 6))
    assert list(ours.dimensions) == ["32", "6"]
    assert ours.dimensions["32"] == pytest.approx(ours.metrics)
    theirs = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, mrr_at_k=[10], truncate_dim=6)(
        model
    )
    assert ours.dimensions["6"]["mrr@10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-6)
    assert ours.dimensions["6"]["mrr@10"] != ours.metrics["mrr@10"]


def test_the_rank_is_that_of_the_best_relevant_document_in_the_whole_corpus():
    corpus = torch.eye(200)
    query = torch.arange(200, 0, -1).float().unsqueeze(0)
    ids = [f"d{i}" for i in range(200)]
    (result,) = rank(query, corpus, Qrels(["q"], ids, {"q": {"d150": 1, "d199": 2}}), [1, 100])
    assert (result.rank, result.score) == (151, 50.0)
    assert result.metrics["recall@100"] == 0.0
    assert result.top[0] == ("d0", 200.0)


@pytest.mark.parametrize("at_once", [2**26, 3])  # all queries at once, and one after the other
def test_a_query_is_not_ranked_among_its_own_answers_and_others_keep_it(at_once, monkeypatch):
    monkeypatch.setattr("mnrl_job.worker.retrieval.scores_at_once", lambda _: at_once)
    queries = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    corpus = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    grades = {"a": {"b": 1}, "b": {"a": 1}}
    own, other = rank(queries, corpus, Qrels(["a", "b"], ["a", "b", "c"], grades, frozenset("a")), [1, 3])
    assert (own.rank, [document for document, _ in own.top]) == (1, ["b", "c"])
    assert own.metrics["accuracy@1"] == own.metrics["recall@1"] == 1.0
    assert (other.rank, [document for document, _ in other.top]) == (3, ["b", "c", "a"])


@pytest.mark.parametrize("tiles", [1, 4])
def test_the_device_is_waited_for_once_a_tile(tiles, monkeypatch):
    queries, corpus = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(1))
    ids = [f"t{row}" for row in range(60)]
    grades = {
        name: {f"t{(row * 7 + step) % 60}": 1 + step for step in range(row % 4 + 1)} for row, name in enumerate(ids)
    }
    judged = Qrels(ids, ids, grades, frozenset(ids[::2]))
    expected = list(rank(queries, corpus, judged, [1, 5, 20]))
    monkeypatch.setattr("mnrl_job.worker.retrieval.scores_at_once", lambda _: 60 * 60 // tiles)
    with counted_waits() as waits:
        found = list(rank(queries, corpus, judged, [1, 5, 20]))
    assert waits.count("cpu") == len(waits) - waits.count("numpy") == tiles, (
        "numpy shares the memory of what is on the host"
    )
    assert found == expected


def test_ranks_and_scores_are_those_of_each_query_alone():
    """By a plain sort, with several relevant documents each."""
    queries, corpus = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(2))
    ids = [f"t{row}" for row in range(60)]
    grades = {name: {f"t{(row * 11 + step) % 60}": 1 for step in range(3)} for row, name in enumerate(ids)}
    for row, result in enumerate(rank(queries, corpus, Qrels(ids, ids, grades), [1])):
        scores = (queries[row] @ corpus.T).tolist()
        order = sorted(range(60), key=lambda at: -scores[at])
        best = min(order.index(int(name[1:])) for name in grades[ids[row]])
        assert (result.rank, result.score) == (best + 1, pytest.approx(scores[order[best]], abs=1e-5))
        assert [name for name, _ in result.top] == [ids[at] for at in order[:10]]


def test_metrics_reach_as_deep_with_the_query_left_out(monkeypatch):
    monkeypatch.setattr("mnrl_job.worker.retrieval.TOP_KEPT", 1)
    corpus = torch.arange(5, 0, -1).float()[:, None]
    judged = Qrels(["d0"], [f"d{i}" for i in range(5)], {"d0": {"d2": 1}}, frozenset(["d0"]))
    (result,) = rank(torch.ones(1, 1), corpus, judged, [1, 2])
    assert (result.rank, result.metrics["recall@2"]) == (2, 1.0)


def test_with_embeddings_cut_a_query_is_not_ranked_among_its_own_answers_either(model, tmp_path):
    texts = {f"t{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    others = {f"{key}b": f"{text} now" for key, text in texts.items()}
    grades = {(key, f"{key}b"): 1 for key in texts}
    scored = [
        evaluate(
            model,
            write_evalset("s", "", tmp_path, EvalData(texts, texts | others, grades, own)),
            "fp32",
            [1],
            results,
            (6,),
        )
        for own in ((), texts)
        for results in [tmp_path / "results.jsonl"]
    ]
    found, left_out = (one.metrics["accuracy@1"] for one in scored)
    assert found < left_out
    assert scored[0].dimensions["6"]["accuracy@1"] < scored[1].dimensions["6"]["accuracy@1"]


def test_the_time_is_estimated_for_more_text_than_arrow_can_join(model, huge, tmp_path, monkeypatch):
    eval_set = write_evalset("s", "", tmp_path, EvalData({"q": "a"}, {"d": "b"}, {("q", "d"): 1}))
    table = huge.rename_columns(["id", "text"])
    monkeypatch.setattr("mnrl_job.worker.retrieval.read_table", lambda _: table)
    monkeypatch.setattr("mnrl_job.worker.retrieval.SAMPLED_TEXTS", 4)
    assert estimate_seconds(model, eval_set, "fp32") > 0
