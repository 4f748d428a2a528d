"""Weights that are not those of the files are refused, whatever the format; what nobody uses may be missing."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnrl_job.embedding.loading import load
from mnrl_job.errors import DataError
from tests.embedding.folders import copied, prefixed, with_json, with_weights, without

FORMATS = ["safetensors", "bin", "sharded"]
TEXT = "reset my password"


def refused(folder, *words):
    with pytest.raises(DataError) as caught:
        load(str(folder), "MNRL_BASE_MODEL")
    told = str(caught.value)
    assert told.startswith(f"MNRL_BASE_MODEL: {folder}")
    assert "\n" not in told
    assert "damaged" not in told
    for word in words:
        assert word in told
    return told


@pytest.fixture(scope="module")
def whole(tiny_model):
    return load(str(tiny_model), "MNRL_BASE_MODEL").model.encode(TEXT)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "model.", "encoder."])
def test_weights_under_a_prefix_are_refused_by_its_name(tiny_model, tmp_path, prefix, kind):
    folder = with_weights(copied(tiny_model, tmp_path / "m"), prefixed(prefix), kind)
    refused(folder, "lack 37 of 39 weights", f"remove the prefix {prefix!r} from the names")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", ["layer.1.", "word_embeddings", "layer.0.attention.self.query.bias"])
def test_missing_weights_are_refused_and_named(tiny_model, tmp_path, part, kind):
    folder = with_weights(copied(tiny_model, tmp_path / "m"), without(part), kind)
    message = refused(folder, "of 39 weights", "would be randomly initialized")
    assert part in re.search(r"the first is (\S+);", message)[1]


def test_an_empty_file_of_weights_is_refused(tiny_model, tmp_path):
    refused(with_weights(copied(tiny_model, tmp_path / "m"), lambda _: {}), "lack 37 of 39 weights")


def test_missing_weights_of_a_model_with_code_of_its_own_are_told_as_that(tiny_model, tmp_path):
    folder = with_weights(copied(tiny_model, tmp_path / "m"), without("query"))
    with_json(folder / "config.json", auto_map={"AutoModel": "modeling.Own"})
    refused(folder, "custom code")


def test_layers_that_the_config_does_not_know_are_refused(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / "config.json", num_hidden_layers=1)
    refused(folder, "contain 16 weights", "encoder.layer.1.")


def test_weights_of_another_shape_are_refused(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / "config.json", intermediate_size=48)
    refused(folder, "has the shape (64", "config.json defines (48")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pooler_nobody_uses_heads_and_old_buffers_make_no_difference(tiny_model, tmp_path, whole, kind, capfd):
    more = {
        "classifier.weight": torch.zeros(2, 32),
        "cls.predictions.transform.dense.bias": torch.zeros(32),
        "embeddings.position_ids": torch.arange(64)[None],
    }
    folder = copied(tiny_model, tmp_path / "m")
    with_weights(folder, lambda weights: without("pooler")(weights) | more, kind)
    found = load(str(folder), "MNRL_BASE_MODEL").model.encode(TEXT)
    assert abs(found - whole).max() < 1e-6
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["word_embeddings.weight", "layer.1.output.LayerNorm.bias"])
def test_a_weight_that_is_no_number_is_refused_and_named(tiny_model, tmp_path, number, part):
    def spoil(weights):
        next(weight for name, weight in weights.items() if name.endswith(part)).view(-1)[3] = number
        return weights

    refused(with_weights(copied(tiny_model, tmp_path / "m"), spoil), part, "NaN or infinity")


def with_dense(tiny_model, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.append(Dense(32, 16))
    model.save_pretrained(str(folder), create_model_card=False)
    dense = json.loads((folder / "modules.json").read_text())[-1]["path"]
    return folder, folder / dense / "model.safetensors"


@pytest.mark.parametrize("change", [prefixed("module."), without("bias"), lambda old: old | {"more": torch.ones(1)}])
def test_the_weights_of_a_dense_layer_are_those_of_its_file(tiny_model, tmp_path, change):
    folder, file = with_dense(tiny_model, tmp_path / "m")
    assert load(str(folder), "MNRL_BASE_MODEL").model.get_embedding_dimension() == 16
    save_file(change(load_file(file)), file)
    refused(folder, "key(s) in state_dict")


def test_a_dense_layer_with_nan_is_refused(tiny_model, tmp_path):
    folder, file = with_dense(tiny_model, tmp_path / "m")
    save_file({name: weight * math.nan for name, weight in load_file(file).items()}, file)
    refused(folder, "linear.", "NaN")
