"""Token ids of many texts, each distinct word tokenized once: a tenth of the time for a tokenizer like BERT's."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mnrl_job.data.ragged import offsets_of, ranges

TEXT = pa.large_string()
TOKENS = pa.list_(pa.int32())
# Limit the memory of the words that are known. In scripts without spaces a "word" is a whole text.
MAX_WORDS, LONGEST_KNOWN = 100_000, 32
# Limits the memory of long texts: all of their words are numbered, also those that are cut off.
BYTES_PER_CALL = 4 << 20


class WordTokenizer:
    """Tokenizes like a backend of the library of which `splits_at_spaces` holds.

    Args:
        backend: the library's tokenizer in Rust. It is copied: others set its truncation and padding.
        prompt: prepended to every text.
        max_tokens: at which texts are truncated, special tokens included; None if they are not.
    """

    def __init__(self, backend: Any, prompt: str | None, max_tokens: int | None) -> None:
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._prompt = pa.scalar(prompt or "", TEXT)
        text = self._backend.encode("a")
        first, last = np.flatnonzero(np.array(text.special_tokens_mask) == 0)[[0, -1]]
        self._prefix, self._suffix = (np.array(ids, dtype=np.int32) for ids in (text.ids[:first], text.ids[last + 1 :]))
        specials = len(self._prefix) + len(self._suffix)
        self._most = np.iinfo(np.int32).max if max_tokens is None else max(0, max_tokens - specials)
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: pa.ChunkedArray) -> pa.ListArray:
        """The token ids of each text, of type `TOKENS`."""
        part_of_text = np.cumsum(pc.binary_length(texts), dtype=np.int64) // BYTES_PER_CALL
        edges = [0, *(np.flatnonzero(np.diff(part_of_text)) + 1).tolist(), len(texts)]
        parts = (self._tokenize(texts.slice(start, stop - start)) for start, stop in pairwise(edges))
        return pa.concat_arrays(list(parts))

    def _tokenize(self, texts: pa.ChunkedArray) -> pa.ListArray:
        whole = pc.binary_join_element_wise(self._prompt, texts.cast(TEXT).combine_chunks(), pa.scalar("", TEXT))
        words = pc.split_pattern(whole, " ")
        distinct = words.values.dictionary_encode()
        ids = self._ids_of(distinct.dictionary.to_pylist()).take(distinct.indices)
        return self._with_special_tokens(np.asarray(ids.values), np.asarray(ids.offsets)[np.asarray(words.offsets)])

    def _ids_of(self, words: list[str]) -> pa.ListArray:
        if len(self._known) > MAX_WORDS:
            self._known.clear()
        new = [word for word in words if word not in self._known]
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        made = {word: encoding.ids for word, encoding in zip(new, encodings, strict=True)}
        self._known |= {word: ids for word, ids in made.items() if len(word) <= LONGEST_KNOWN}
        return pa.array([made[word] if word in made else self._known[word] for word in words], TOKENS)

    def _with_special_tokens(self, ids: NDArray[np.int32], offsets: NDArray[np.int32]) -> pa.ListArray:
        """The truncated ids of each text between the special tokens; text i has ids[offsets[i] : offsets[i + 1]]."""
        before, after = len(self._prefix), len(self._suffix)
        starts, counts = np.zeros((2, len(offsets) - 1, 3), dtype=np.int64)
        counts[:] = before, 0, after
        counts[:, 1] = np.minimum(np.diff(offsets), self._most)
        starts[:] = 0, before + after, before
        starts[:, 1] += offsets[:-1]
        pool = np.concatenate([self._prefix, self._suffix, ids])
        values = pool[ranges(starts.ravel(), counts.ravel())]
        return pa.ListArray.from_arrays(pa.array(offsets_of(counts.sum(axis=1)), pa.int32()), values)


def splits_at_spaces(backend: Any) -> bool:
    """Whether the tokens of a text are those of its parts between spaces, one after another.

    BERT's normalizer and pre-tokenizer look at nothing beyond a space (Devlin et al. 2019, arXiv:1810.04805), and
    words of the vocabulary that are found before them must not contain one.
    """
    state = json.loads(backend.to_str())
    kinds = [(state[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer")]
    has_space = any(" " in token["content"] for token in state["added_tokens"])
    return kinds == ["BertNormalizer", "BertPreTokenizer"] and not has_space
