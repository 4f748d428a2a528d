"""Models whose only vocabulary is SentencePiece's load, and read words by it."""

import pytest
from transformers import AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.embedding.folders import PAIRS, pieces

FILES = {
    "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model",
    "deberta-v2": "spm.model",
    "t5": "spiece.model",
    "mt5": "spiece.model",
}


@pytest.fixture(scope="module")
def vocabulary():
    return pieces()


@pytest.mark.parametrize("family", FILES)
def test_a_family_loads_from_its_file_alone(vocabulary, tmp_path, family):
    CONFIG_MAPPING[family]().save_pretrained(tmp_path)
    (tmp_path / FILES[family]).write_bytes(vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = PAIRS[0][0]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
