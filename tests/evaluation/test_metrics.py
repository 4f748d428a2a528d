"""Metrics: equal to trec_eval's on the same rankings."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.evaluation.metrics import ranking_metrics

CUTS = ",".join(map(str, METRIC_CUTOFFS))
OURS_TO_TREC = {"accuracy": "success", "precision": "P", "recall": "recall", "map": "map_cut", "ndcg": "ndcg_cut"}


@settings(max_examples=200)
@given(
    documents=st.integers(1, 150),
    seed=st.integers(0, 2**32 - 1),
    relevant=st.integers(1, 30),
    highest=st.integers(1, 3),
)
def test_every_metric_equals_trec_eval(documents, seed, relevant, highest):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(documents, min(relevant, documents), replace=False)
    grades = {f"d{i}": int(rng.integers(1, highest + 1)) for i in chosen}
    order = [f"d{i}" for i in rng.permutation(documents)]
    names = {f"{trec}.{CUTS}" for trec in OURS_TO_TREC.values()} | {"recip_rank"}
    run = {"q": {document: float(documents - place) for place, document in enumerate(order)}}
    theirs = pytrec_eval.RelevanceEvaluator({"q": grades}, names).evaluate(run)["q"]
    ours = ranking_metrics([grades.get(document, 0) for document in order[:100]], list(grades.values()), METRIC_CUTOFFS)
    for k in METRIC_CUTOFFS:
        for name, trec in OURS_TO_TREC.items():
            assert ours[f"{name}@{k}"] == pytest.approx(theirs[f"{trec}_{k}"], abs=1e-9), name
        first_in_reach = theirs["recip_rank"] if theirs["recip_rank"] >= 1 / k else 0.0
        assert ours[f"mrr@{k}"] == pytest.approx(first_in_reach, abs=1e-9)


def test_all_metrics_are_zero_without_a_relevant_document():
    assert set(ranking_metrics([0, 0, 0], [1], METRIC_CUTOFFS).values()) == {0.0}
