"""How many tokens a model takes: tried by giving it so many, and one more."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mnrl_job.embedding.loading import ModelOptions, load, load_model
from mnrl_job.embedding.positions import max_tokens, positions
from mnrl_job.errors import SettingsError
from mnrl_job.training.token_lengths import measure_lengths
from tests.embedding.folders import TEXTS, t5, with_json, xlmr

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}
OF_BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
# By family: what its config needs, and the tokens that fit 20 positions.
TABLES = {
    "bert": ({}, 20),
    "distilbert": ({"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}, 20),
    "electra": ({"embedding_size": 16}, 20),
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}, 20),
    "roberta": ({}, 18),
    "xlm-roberta": ({}, 18),
    "camembert": ({}, 18),
    "mpnet": ({}, 18),
    "roberta-prelayernorm": ({}, 18),
    "data2vec-text": ({}, 18),
    "bart": (OF_BART | {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}, 20),
}


@pytest.mark.parametrize("family", TABLES)
def test_the_table_of_positions_decides(family):
    options, expected = TABLES[family]
    model = AutoModel.from_config(CONFIG_MAPPING[family](**SMALL | options)).eval()
    limit = positions(SimpleNamespace(transformers_model=model))
    assert limit == expected
    longer = torch.full((1, expected + 1), 7)
    model(input_ids=longer[:, :-1])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=longer)


@pytest.mark.parametrize(("family", "limit"), [("deberta-v2", 20), ("modernbert", 20), ("xlnet", None), ("t5", None)])
def test_without_a_table_the_config_decides_if_it_says_anything(family, limit):
    small = SMALL | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    if limit is None:
        small = {"vocab_size": 50, "d_model": 16, "n_layer": 1, "num_layers": 1, "n_head": 2, "d_inner": 16}
    config = CONFIG_MAPPING[family](**small)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert positions(SimpleNamespace(transformers_model=model)) == limit


def test_texts_are_cut_at_what_fits_where_the_files_promise_more(tmp_path, caplog):
    model = load(str(xlmr(tmp_path / "m", 34)), "MNRL_BASE_MODEL").model
    assert max_tokens(model) == 32
    assert "34 tokens, but it has 32 positions; truncating texts at 32" in caplog.text
    model.encode("invoice " * 60)


def test_the_promise_of_sentence_transformers_is_no_better(tiny_model, tmp_path, caplog):
    from tests.embedding.folders import copied

    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / "sentence_bert_config.json", max_seq_length=1024)
    model = load(str(folder), "MNRL_BASE_MODEL").model
    assert max_tokens(model) == 64
    assert "truncating texts at 64" in caplog.text


def test_a_setting_beyond_the_positions_is_refused(tmp_path):
    folder = str(xlmr(tmp_path / "m", 34))
    with pytest.raises(SettingsError, match=r"^MNRL_MAX_SEQ_LENGTH=33: .*\b32\b"):
        load_model(folder, ModelOptions(max_seq_length=33))
    assert max_tokens(load_model(folder, ModelOptions(max_seq_length=32)).model) == 32


def test_a_model_without_a_greatest_length_reads_texts_whole(tmp_path):
    import pyarrow as pa

    from mnrl_job.data.pairs import Pairs

    loaded = load(str(t5(tmp_path / "m")), "MNRL_BASE_MODEL")
    assert max_tokens(loaded.model) is None
    table = pa.table({"anchor": TEXTS, "positive": TEXTS})
    path = tmp_path / "pairs.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    lengths = measure_lengths(loaded.model, Pairs(path, ("anchor", "positive"), len(TEXTS), len(TEXTS), {}, (), ()))
    assert lengths.max_seq_length is None
    assert lengths.columns["anchor"]["truncated"] == 0
    assert load_model(str(tmp_path / "m"), ModelOptions(max_seq_length=300)).model.max_seq_length == 300
