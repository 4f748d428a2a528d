"""The BM25 baseline beside the metrics of the model."""

import logging
from collections.abc import Sequence

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.evaluation.qrels import read_qrels

# Tokens and index take 8 to 10 bytes of memory per byte of text (measured; 4.1 kB for 60 words), so up to 1 GB.
MAX_CORPUS_BYTES = 100_000_000


def bm25_metrics(eval_set: EvalSet, cutoffs: Sequence[int]) -> dict[str, float] | None:
    """Score BM25 on an eval set, in Lucene's variant (k1 1.5, b 0.75; Kamphuis et al. 2020, Lù 2024).

    Tokens are words of at least two letters, without stop words or stemming, as the language is unknown. The mean
    metrics are None if the corpus is too large or has no words.
    """
    queries, corpus = (read_table(eval_set.folder / f"{name}.arrow") for name in ("queries", "corpus"))
    if corpus["text"].nbytes > MAX_CORPUS_BYTES:
        return None
    import bm25s  # takes half a second

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    query_tokens, corpus_tokens = (
        bm25s.tokenize(table["text"].to_pylist(), stopwords=[], return_ids=False, show_progress=False)
        for table in (queries, corpus)
    )
    if not any(corpus_tokens):
        return None
    index = bm25s.BM25()
    index.index(corpus_tokens, show_progress=False)
    depth = min(max(cutoffs) + 1, eval_set.documents)  # one may be the query itself
    rows, scores = index.retrieve(query_tokens, k=depth, show_progress=False)
    judged = read_qrels(eval_set, queries, corpus)
    results = []
    for query, query_rows, query_scores in zip(judged.queries, rows, scores, strict=True):
        grades = judged.grades[query]
        # A document without a word of the query is not retrieved.
        ranking = [judged.documents[row] for row, score in zip(query_rows, query_scores, strict=True) if score > 0]
        if query in judged.own:
            ranking = [document for document in ranking if document != query]
        results.append(
            ranking_metrics([grades.get(document, 0) for document in ranking], list(grades.values()), cutoffs)
        )
    return mean_metrics(results)
