"""An embedding that is no number ends the run, and the text is named; it is not ranked or written down."""

import json
import math

import pyarrow as pa
import pytest
import torch

from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import LocalSource
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.loading import load
from mnrl_job.embedding.nonfinite import NonFiniteEmbedding
from mnrl_job.errors import DataError, Diverged
from mnrl_job.worker.scoring import evaluate_all, selection_score
from mnrl_job.worker.verify import record_probes
from tests.embedding.folders import TEXTS


@pytest.fixture
def spoilt(tiny_model):
    """A model that gives NaN wherever a text has the word invoice."""
    model = load(str(tiny_model), "MNRL_BASE_MODEL").model
    word = model.tokenizer.convert_tokens_to_ids("invoice")
    with torch.no_grad():
        model.transformers_model.get_input_embeddings().weight[word, 0] = math.nan
    return model


def column(texts):
    return pa.chunked_array([texts[:1], texts[1:]])


@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_text_is_named(spoilt, tmp_path, kind, precision):
    with pytest.raises(NonFiniteEmbedding, match=f"{kind} 'where is my invoice'") as caught:
        encode(spoilt, column(TEXTS), kind, precision, tmp_path / "tokens.arrow")
    assert (caught.value.row, caught.value.code) == (TEXTS.index("where is my invoice"), 65)


def test_a_single_text_among_many_is_enough(spoilt, tmp_path):
    texts = [text for text in TEXTS if "invoice" not in text] * 4
    assert encode(spoilt, column(texts), "query", "fp32", tmp_path / "a.arrow").isfinite().all()
    with pytest.raises(NonFiniteEmbedding, match="'an invoice'"):
        encode(spoilt, column([*texts, "an invoice"]), "query", "fp32", tmp_path / "b.arrow")


def test_a_model_of_another_kind_is_looked_at_too(static_model, tmp_path):
    with torch.no_grad():
        static_model[0].embedding.weight[2] = math.inf
    with pytest.raises(NonFiniteEmbedding, match="'c'"):
        encode(static_model, column(["a b", "c"]), "document", "fp32", tmp_path / "tokens.arrow")


@pytest.fixture
def task(eval_file, tmp_path, tiny_model):
    from mnrl_job.config.settings import Settings
    from mnrl_job.launch.worker_task import SelectionSets, WorkerTask

    source = LocalSource("faq", str(eval_file), (eval_file,), eval_file)
    eval_set = read_evalset(source, tmp_path / "eval")
    selection = SelectionSets(eval_set)
    return WorkerTask(Settings(), str(tiny_model), tmp_path, tmp_path, (eval_set,), {}, selection=selection)


@pytest.mark.parametrize(("when", "error"), [("before", DataError), ("after", Diverged)])
def test_the_place_in_the_eval_set_is_told_and_whose_fault_it_is(spoilt, task, when, error, monkeypatch):
    monkeypatch.setattr("mnrl_job.embedding.embedding_files.TEXTS_PER_PART", 1)
    with pytest.raises(error, match=r"query 'q2' .*\bfaq: 'get an invoice'"):
        evaluate_all(spoilt, task, when)
    assert not list(task.scratch.glob(f"{when}-*"))


def test_while_training_it_has_diverged(spoilt, task):
    with pytest.raises(Diverged, match=r"\bfaq\b"):
        selection_score(spoilt, task)


def test_the_fixed_texts_are_not_recorded_as_nan(spoilt, tiny_model, tmp_path):
    with torch.no_grad():
        spoilt[0].model.embeddings.LayerNorm.bias.fill_(math.nan)
    with pytest.raises(Diverged, match="How do I reset my password"):
        record_probes(spoilt, tmp_path / "probes.json")
    assert not (tmp_path / "probes.json").exists()
    record_probes(load(str(tiny_model), "MNRL_BASE_MODEL").model, tmp_path / "probes.json")
    assert json.loads((tmp_path / "probes.json").read_text())["texts"]
