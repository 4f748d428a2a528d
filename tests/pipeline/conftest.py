"""Preparing data without a run."""

import shutil

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.pipeline.preparation import prepare_pairs
from tests.data.reading import read
from tests.examples import write_jsonl


@pytest.fixture
def prepared(tmp_path):
    """The result of `prepare_pairs` for sources, each a list of pairs or triplets, and eval sets.

    These are (query, relevant document) by name.
    """

    def run(*sources, evals=None, weights=None, **settings):
        paths = [
            write_jsonl(tmp_path / f"s{i}.jsonl", ({"query": a, "pos": p, "neg": n} for a, p, *n in rows))
            for i, rows in enumerate(sources)
        ]
        named = [
            Source(f"s{i}", str(path), weight)
            for i, (path, weight) in enumerate(zip(paths, weights or [None] * len(paths), strict=True))
        ]
        pairs, _ = read(tmp_path, *named)
        eval_sets = tuple(
            write_evalset(
                name, name, tmp_path / "eval" / name, EvalData({"q": query}, {"d": document}, {("q", "d"): 1})
            )
            for name, (query, document) in (evals or {}).items()
        )
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "eval").mkdir(parents=True)
        return prepare_pairs(Settings(**settings), pairs, eval_sets, scratch, scratch, workers=2)

    return run
