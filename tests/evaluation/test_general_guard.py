"""The bundled set of general search."""

from collections import Counter

import pytest

from mnrl_job.data.tables import read_table
from mnrl_job.evaluation.bm25 import bm25_metrics
from mnrl_job.evaluation.general_guard import FOLDER, guard_metric, guard_summary, read_general_search


@pytest.fixture(scope="module")
def general_search(tmp_path_factory):
    return read_general_search(tmp_path_factory.mktemp("general") / "search")


def test_half_of_the_queries_report_and_each_has_one_document_of_the_whole_corpus(general_search):
    assert (general_search.queries, general_search.documents, general_search.judgements) == (200, 2_000, 200)
    ids = read_table(general_search.folder / "queries.arrow")["id"].to_pylist()
    assert all(int(query_id.rpartition("-")[2]) % 2 for query_id in ids)
    kinds = Counter(query_id.rpartition("-")[0] for query_id in ids)
    assert kinds.keys() == {"keyword", "question", "sentence", "description"}
    assert min(kinds.values()) >= 30
    qrels = read_table(general_search.folder / "qrels.arrow")
    assert qrels["query"].to_pylist() == ids
    assert set(qrels["document"].to_pylist()) <= set(
        read_table(general_search.folder / "corpus.arrow")["id"].to_pylist()
    )


def test_all_queries_are_distinct_and_none_is_found_by_its_words_alone_too_easily(general_search):
    texts = read_table(general_search.folder / "queries.arrow")["text"].to_pylist()
    assert len(set(texts)) == len(texts)
    assert bm25_metrics(general_search, (10,))["ndcg@10"] < 0.5


def test_weights_are_selected_on_the_queries_that_do_not_report(general_search, tmp_path):
    other = read_general_search(tmp_path / "other", reported=False)
    reported, selecting = (
        set(read_table(half.folder / "queries.arrow")["id"].to_pylist()) for half in (general_search, other)
    )
    assert len(selecting) == len(reported) == 200
    assert not reported & selecting
    assert other.documents == general_search.documents


def test_it_is_identified_by_its_bundled_files(general_search, tmp_path):
    assert read_general_search(tmp_path / "again").sha256 == general_search.sha256
    assert "Princeton" in (FOLDER / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cutoffs", "metric"), [((1, 3, 5, 10, 100), "ndcg@10"), ((2, 20), "ndcg@2"), ((1, 12, 100), "ndcg@12")]
)
def test_the_metric_is_ndcg_at_the_cutoff_nearest_to_10(cutoffs, metric):
    assert guard_metric([f"{name}@{k}" for name in ("accuracy", "ndcg") for k in cutoffs]) == metric


def test_the_summary_has_the_score_before_and_after_if_there_is_one():
    before, after = {"ndcg@10": 0.834, "mrr@10": 0.5}, {"ndcg@10": 0.819, "mrr@10": 0.4}
    assert guard_summary({"general-search": {"before": before, "after": after}}) == "general search: 0.83 → 0.82"
    assert guard_summary({"general-search": {"before": before, "after": {}}}) == "general search: 0.83"
    assert guard_summary({"faq": {"before": before, "after": after}}) == ""
