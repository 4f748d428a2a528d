"""What decides the token ids of a text, as a hash: models with equal fingerprints give equal ids."""

import json
from functools import partial
from typing import Any

import pyarrow as pa
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.embedding.tokens import PROBES, detect_input_format, tokenize_in_calls
from mnrl_job.system.json_text import sha256_of_json


def token_fingerprint(model: SentenceTransformer) -> str | None:
    """The fingerprint of tokenizer, maximum length and prompts; None if the model's input is not token ids."""
    facts: list[Any] = [max_tokens(model)]
    for prompt in (find_prompt(model, kind) for kind in kinds_of(2)):
        preprocess = partial(model.preprocess, prompt=prompt)
        if detect_input_format(preprocess, model.tokenizer, PROBES) is None:
            return None
        facts.append([prompt, *tokenize_in_calls(preprocess, pa.chunked_array([PROBES])).to_pylist()])
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend else {"vocabulary": model.tokenizer.get_vocab()}
    # Each call sets these two.
    return sha256_of_json([*facts, state | {"truncation": None, "padding": None}])
