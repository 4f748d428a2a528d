"""What the words alone would find: BM25, for scale beside the model's metrics."""

import logging
from collections.abc import Sequence

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.evaluation.qrels import read_qrels

# Words and index are held in memory, 8 to 10 bytes for each byte of text (measured; 4.1 kB for 60 words): so 1 GB.
MOST_BYTES = 100_000_000


def lexical_metrics(eval_set: EvalSet, cutoffs: Sequence[int]) -> dict[str, float] | None:
    """Rank the corpus by BM25 as Lucene computes it (k1 1.5, b 0.75; Kamphuis et al. 2020, Lù 2024).

    Words are runs of two letters or more; none are left out or stemmed, since the language is not known.

    Returns:
        The mean metrics; None for a corpus that is too large, or has no words.
    """
    queries, corpus = (read_table(eval_set.folder / f"{name}.arrow") for name in ("queries", "corpus"))
    if corpus["text"].nbytes > MOST_BYTES:
        return None
    import bm25s  # takes half a second, which nobody waits for here

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    asked, words = (
        bm25s.tokenize(table["text"].to_pylist(), stopwords=[], return_ids=False, show_progress=False)
        for table in (queries, corpus)
    )
    if not any(words):
        return None
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    depth = min(max(cutoffs) + 1, eval_set.documents)  # one of them may be the query itself
    rows, scores = index.retrieve(asked, k=depth, show_progress=False)
    judged = read_qrels(eval_set, queries, corpus)
    ranked = []
    for query, found, points in zip(judged.queries, rows, scores, strict=True):
        grades = judged.grades[query]
        # What shares no word with the query was not found.
        ranking = [judged.documents[row] for row, score in zip(found, points, strict=True) if score > 0]
        if query in judged.own:
            ranking = [document for document in ranking if document != query]
        ranked.append(ranking_metrics([grades.get(one, 0) for one in ranking], list(grades.values()), cutoffs))
    return mean_metrics(ranked)
