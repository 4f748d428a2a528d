"""An adapter's folder as a model: merged into its base, which keeps what it says of pooling, prompts and tokenizer."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.loading import load
from mnrl_job.errors import DataError, NotFound
from tests.embedding.folders import TEXTS, copied, with_json, with_weights, without

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}


def random_adapter(model):
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)


def by_sentence_transformers(base, folder):
    model = SentenceTransformer(str(base), device="cpu")
    model.add_adapter(LoraConfig(**LORA))
    random_adapter(model)
    model.prompts["query"] = "where is "
    model.save_pretrained(str(folder), create_model_card=False)
    return folder, model.encode(TEXTS)


def by_peft(base, folder):
    model = SentenceTransformer(str(base), device="cpu")
    tuned = get_peft_model(model[0].model, LoraConfig(**LORA))
    random_adapter(tuned)
    tuned.save_pretrained(str(folder))
    return folder, model.encode(TEXTS)


@pytest.fixture(params=[by_sentence_transformers, by_peft], ids=lambda one: one.__name__)
def adapter(request, tiny_model, tmp_path):
    return request.param(tiny_model, tmp_path / "adapter")


def test_it_is_merged_and_gives_what_it_gave_where_it_was_trained(adapter, tiny_model, tmp_path):
    folder, expected = adapter
    loaded = load(str(folder), "MNRL_BASE_MODEL")
    assert loaded.adapter_of == str(tiny_model)
    assert loaded.assumed.pooling is None
    assert abs(loaded.model.encode(TEXTS) - expected).max() < 1e-5
    assert abs(load(str(tiny_model), "MNRL_BASE_MODEL").model.encode(TEXTS) - expected).max() > 1e-2
    assert len(loaded.model) == 3, "with pooling and normalisation"
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    loaded.model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    assert not list((tmp_path / "saved").glob("adapter*"))
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert abs(plain.encode(TEXTS) - expected).max() < 1e-5


def test_its_own_prompts_go_with_it(tiny_model, tmp_path):
    folder, _ = by_sentence_transformers(tiny_model, tmp_path / "adapter")
    assert load(str(folder), "MNRL_BASE_MODEL").model.prompts["query"] == "where is "


def test_a_base_that_is_not_there_is_missing(adapter):
    folder, _ = adapter
    with_json(folder / "adapter_config.json", base_model_name_or_path="/home/somebody/models/base")
    with pytest.raises(NotFound, match=r"/home/somebody/models/base, .*adapter_config.json"):
        load(str(folder), "MNRL_BASE_MODEL")


def test_an_adapter_of_nothing_is_refused(adapter):
    folder, _ = adapter
    with_json(folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(DataError, match="no base_model_name_or_path"):
        load(str(folder), "MNRL_BASE_MODEL")


def test_a_base_that_is_not_whole_is_refused_as_any_model_is(tiny_model, tmp_path):
    base = copied(tiny_model, tmp_path / "base")
    folder, _ = by_peft(base, tmp_path / "adapter")
    with_weights(base, without("layer.1."))
    with pytest.raises(DataError, match=rf"{base}: .*\b16 of 39 weights"):
        load(str(folder), "MNRL_BASE_MODEL")


def test_an_adapter_that_lacks_weights_is_refused(adapter):
    folder, _ = adapter
    file = folder / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if "layer.1." not in name}, file)
    with pytest.raises(DataError, match="missing adapter keys") as caught:
        load(str(folder), "MNRL_BASE_MODEL")
    assert "\n" not in str(caught.value)


def test_an_adapter_for_another_kind_of_model_is_refused(adapter):
    folder, _ = adapter
    with_json(folder / "adapter_config.json", target_modules=["q_proj"])
    with pytest.raises(DataError, match="merged into"):
        load(str(folder), "MNRL_BASE_MODEL")


def test_the_revision_of_its_base_is_asked_for(adapter):
    from mnrl_job.embedding.adapters import find_adapter

    folder, _ = adapter
    with_json(folder / "adapter_config.json", base_model_name_or_path="owner/base", revision="v2")
    assert find_adapter(str(folder), None, "a model").base == "owner/base@v2"
