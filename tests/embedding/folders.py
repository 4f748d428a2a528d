"""Model folders as people have them: whole ones of several families, and what can be wrong with them."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.examples import PAIRS

WORDS = sorted({word for pair in PAIRS for text in pair for word in text.split()})
TEXTS = [text for pair in PAIRS for text in pair]


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# What a config of each family needs beside the size; attention near and far where a family has both.
FAMILIES = {
    "bert": {},
    "xlm-roberta": {},
    "mpnet": {},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
    "deberta-v2": {},
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "d_kv": 16},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "use_bidirectional_attention": True, "sliding_window": 4},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
}


def of_family(family, tokenized, folder):
    """A model with a backbone of some family and the mean of its tokens, and the tokenizer of another model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer = AutoTokenizer.from_pretrained(tokenized)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CONFIG_MAPPING[family](vocab_size=len(tokenizer), **SIZE, **special, **FAMILIES[family])
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder), max_seq_length=32), Pooling(32), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def copied(model, folder):
    return Path(shutil.copytree(model, folder))


def with_json(file, **changes):
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")


def with_weights(folder, change, kind="safetensors"):
    """Write anew what `change` makes of the weights by name: in one file, as a pickle, or in two with an index."""
    file = folder / "model.safetensors"
    weights = {name: weight.contiguous() for name, weight in change(load_file(file)).items()}
    if kind == "safetensors":
        save_file(weights, file, {"format": "pt"})
        return folder
    file.unlink()
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, some in parts.items():
        save_file({name: weights[name] for name in some}, folder / part, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def prefixed(prefix):
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def without(part):
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def word_tokenizer(special, template="", **roles):
    """One token for each word, behind the special ones, which have their roles."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, roles["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        ids = [(token, vocabulary[token]) for token in special if token in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def gpt2(folder):
    """A decoder whose tokenizer knows no padding."""
    from transformers import GPT2Config, GPT2Model

    roles = {"unk_token": "<end>", "eos_token": "<end>"}
    tokenizer = word_tokenizer(("<end>",), **roles)
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2Model(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder):
    """An encoder with a bias on the positions, whose files name no greatest length."""
    from transformers import T5Config, T5EncoderModel

    roles = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    tokenizer = word_tokenizer(("<pad>", "</s>", "<unk>"), "$A </s>", **roles)
    torch.manual_seed(0)
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def xlmr(folder, positions=34):
    """Of RoBERTa's kind: two positions are not for tokens."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    roles = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = word_tokenizer(("<s>", "<pad>", "</s>", "<unk>"), "<s> $A </s>", model_max_length=positions, **roles)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pieces():
    """A vocabulary in SentencePiece's own format."""
    import sentencepiece

    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=written, vocab_size=60, minloglevel=2
    )
    return written.getvalue()
