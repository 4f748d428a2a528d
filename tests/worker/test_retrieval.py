"""Rankings and metrics, which equal those of the library's evaluator."""

import json
from dataclasses import replace

import pytest
import torch

from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.evaluation.qrels import Qrels
from mnrl_job.evaluation.results import read_results
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.retrieval import EvaluationOptions, estimate_seconds, evaluate, rank
from tests.examples import PAIRS
from tests.waits import counted_waits


def test_metrics_equal_those_of_the_library(model, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))} | {("q0", "d3"): 1}
    eval_set = write_evalset("s", "", tmp_path, EvalData(queries, corpus, grades))
    ours = evaluate(model, eval_set, EvaluationOptions("fp32", METRIC_CUTOFFS), tmp_path / "results.jsonl")
    relevant = {q: {d for (query, d) in grades if query == q} for q in queries}
    library = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, ndcg_at_k=[10], mrr_at_k=[10])
    theirs = library(model)
    assert ours.metrics["ndcg@10"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-6)
    assert ours.metrics["mrr@10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-6)
    assert ours.metrics["accuracy@3"] == pytest.approx(theirs["cosine_accuracy@3"], abs=1e-6)
    assert ours.metrics["recall@5"] == pytest.approx(theirs["cosine_recall@5"], abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["query_id"] for line in lines] == list(queries)


def test_metrics_of_truncated_embeddings_equal_those_of_the_library(model, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    relevant = {f"q{i}": {f"d{i}"} for i in range(len(PAIRS))}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))}
    eval_set = write_evalset("s", "", tmp_path, EvalData(queries, corpus, grades))
    ours = evaluate(model, eval_set, EvaluationOptions("fp32", METRIC_CUTOFFS, (32, 6)), tmp_path / "results.jsonl")
    assert list(ours.dimensions) == ["32", "6"]
    assert ours.dimensions["32"] == pytest.approx(ours.metrics)
    theirs = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, mrr_at_k=[10], truncate_dim=6)(
        model
    )
    assert ours.dimensions["6"]["mrr@10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-6)
    assert ours.dimensions["6"]["mrr@10"] != ours.metrics["mrr@10"]


def test_the_rank_of_a_query_is_that_of_its_best_relevant_document():
    corpus = torch.eye(200)
    query = torch.arange(200, 0, -1).float().unsqueeze(0)
    ids = [f"d{i}" for i in range(200)]
    (result,) = rank(query, corpus, Qrels(["q"], ids, {"q": {"d150": 1, "d199": 2}}), [1, 100])
    assert (result.rank, result.score) == (151, 50.0)
    assert result.metrics["recall@100"] == 0.0
    assert result.top[0] == ("d0", 200.0)


@pytest.mark.parametrize("tile_size", [2**26, 3])  # all queries in one tile, and one query per tile
def test_a_query_is_excluded_from_its_own_ranking_only(tile_size, monkeypatch):
    monkeypatch.setattr("mnrl_job.worker.retrieval.scores_per_tile", lambda _: tile_size)
    queries = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    corpus = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    grades = {"a": {"b": 1}, "b": {"a": 1}}
    own, other = rank(queries, corpus, Qrels(["a", "b"], ["a", "b", "c"], grades, frozenset("a")), [1, 3])
    assert (own.rank, [document for document, _ in own.top]) == (1, ["b", "c"])
    assert own.metrics["accuracy@1"] == own.metrics["recall@1"] == 1.0
    assert (other.rank, [document for document, _ in other.top]) == (3, ["b", "c", "a"])


@pytest.mark.parametrize(("documents_per_tile", "blocks"), [(60, 1), (60, 4), (7, 1), (7, 4)])
def test_there_is_one_synchronization_with_the_device_per_block_of_queries(documents_per_tile, blocks, monkeypatch):
    queries, corpus = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(1))
    ids = [f"t{row}" for row in range(60)]
    grades = {
        name: {f"t{(row * 7 + step) % 60}": 1 + step for step in range(row % 4 + 1)} for row, name in enumerate(ids)
    }
    judged = Qrels(ids, ids, grades, frozenset(ids[::2]))
    expected = list(rank(queries, corpus, judged, [1, 5, 20]))
    monkeypatch.setattr("mnrl_job.worker.retrieval.scores_per_tile", lambda _: 5 * 60)
    monkeypatch.setattr("mnrl_job.worker.retrieval.DOCUMENTS_PER_TILE", documents_per_tile)
    monkeypatch.setattr("mnrl_job.worker.retrieval.QUERIES_PER_BLOCK", 60 // blocks)
    with counted_waits() as waits:
        results = list(rank(queries, corpus, judged, [1, 5, 20]))
    assert waits.count("cpu") == len(waits) - waits.count("numpy") == blocks, (
        "on the host, numpy shares the memory of the tensor"
    )
    assert [replace(result, score=0, top=()) for result in results] == [
        replace(result, score=0, top=()) for result in expected
    ]
    assert [[name for name, _ in result.top] for result in results] == [
        [name for name, _ in result.top] for result in expected
    ]


def test_ranks_and_scores_equal_those_of_a_plain_sort():
    queries, corpus = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(2))
    ids = [f"t{row}" for row in range(60)]
    grades = {name: {f"t{(row * 11 + step) % 60}": 1 for step in range(3)} for row, name in enumerate(ids)}
    for row, result in enumerate(rank(queries, corpus, Qrels(ids, ids, grades), [1])):
        scores = (queries[row] @ corpus.T).tolist()
        order = sorted(range(60), key=lambda row: -scores[row])
        best = min(order.index(int(name[1:])) for name in grades[ids[row]])
        assert (result.rank, result.score) == (best + 1, pytest.approx(scores[order[best]], abs=1e-5))
        assert [name for name, _ in result.top] == [ids[document] for document in order[:10]]


def test_metrics_have_the_same_depth_if_the_query_is_excluded(monkeypatch):
    monkeypatch.setattr("mnrl_job.worker.retrieval.TOP_DOCUMENTS", 1)
    corpus = torch.arange(5, 0, -1).float()[:, None]
    judged = Qrels(["d0"], [f"d{i}" for i in range(5)], {"d0": {"d2": 1}}, frozenset(["d0"]))
    (result,) = rank(torch.ones(1, 1), corpus, judged, [1, 2])
    assert (result.rank, result.metrics["recall@2"]) == (2, 1.0)


def test_with_truncated_embeddings_a_query_is_excluded_from_its_own_ranking(model, tmp_path):
    texts = {f"t{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    others = {f"{key}b": f"{text} now" for key, text in texts.items()}
    grades = {(key, f"{key}b"): 1 for key in texts}
    included, excluded = (
        evaluate(
            model,
            write_evalset("s", "", tmp_path, EvalData(texts, texts | others, grades, own)),
            EvaluationOptions("fp32", [1], (6,)),
            tmp_path / "results.jsonl",
        )
        for own in ((), texts)
    )
    assert included.metrics["accuracy@1"] < excluded.metrics["accuracy@1"]
    assert included.dimensions["6"]["accuracy@1"] < excluded.dimensions["6"]["accuracy@1"]


def test_the_duration_is_estimated_for_more_text_than_one_arrow_array_holds(model, huge, tmp_path, monkeypatch):
    eval_set = write_evalset("s", "", tmp_path, EvalData({"q": "a"}, {"d": "b"}, {("q", "d"): 1}))
    table = huge.rename_columns(["id", "text"])
    monkeypatch.setattr("mnrl_job.worker.retrieval.read_table", lambda _: table)
    monkeypatch.setattr("mnrl_job.worker.retrieval.SAMPLE_SIZE", 4)
    assert estimate_seconds(model, eval_set, "fp32") > 0


@pytest.mark.parametrize("documents_per_tile", [60, 7])
def test_equal_scores_share_a_rank_in_tiles_of_documents_too(documents_per_tile, monkeypatch):
    """Each relevant document is there four times; with the second batch of them it would be ranked behind itself."""
    monkeypatch.setattr("mnrl_job.worker.retrieval.DOCUMENTS_PER_TILE", documents_per_tile)
    queries, distinct = torch.nn.functional.normalize(torch.randn(2, 15, 8, generator=torch.Generator().manual_seed(3)))
    ids = [f"t{row}" for row in range(60)]
    judged = Qrels(ids[:15], ids, {name: {name: 1} for name in ids[:15]})
    ranks = [result.rank for result in rank(queries, distinct.repeat(4, 1), judged, [1])]
    scores = queries @ distinct.T
    better = (scores > scores.diagonal()[:, None]).sum(dim=1)
    assert ranks == (1 + 4 * better).tolist()


@pytest.mark.parametrize("ranks", ["two_ranks", "three_ranks"])
def test_several_ranks_split_an_evaluation_and_get_the_same_result(request, ranks, model, tmp_path):
    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)} | {"q1": PAIRS[1][0]}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))} | {("q0", "d3"): 1}
    eval_set = write_evalset("s", "", tmp_path / "eval", EvalData(queries, corpus, grades, frozenset(["q1"])))
    write_record(tmp_path / "eval_set.json", eval_set)
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    found = request.getfixturevalue(ranks).ask("evaluate", tmp_path)
    alone = evaluate(model, eval_set, EvaluationOptions("fp32", [1, 10], (6,)), tmp_path / "alone.jsonl")
    assert (found["metrics"], found["dimensions"]) == (alone.metrics, alone.dimensions)
    results = read_results(tmp_path / "results.jsonl")
    for ours, expected in zip(results, read_results(alone.results), strict=True):
        assert (ours.query_id, ours.rank, ours.metrics) == (expected.query_id, expected.rank, expected.metrics)
        assert ours.top == tuple((name, pytest.approx(score, abs=1e-6)) for name, score in expected.top)
    assert not (tmp_path / "embeddings").exists(), "the embeddings are deleted"
