"""The training texts as token ids, made when a batch needs them: the first step waits for no other."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.tables import evenly_spaced
from mnrl_job.embedding.tokens import TEXTS_PER_CALL, InputFormat, Tokenize, token_ids
from mnrl_job.system.heartbeat import heartbeat

# Texts of a column that are tokenized before the first step and kept: all of a small one.
SAMPLED_TEXTS = 10_000


@dataclass(frozen=True)
class TokenColumn:
    """A column of texts, tokenized with its prompt."""

    input_format: InputFormat
    tokenize: Tokenize
    texts: pa.ChunkedArray

    @cached_property
    def sample(self) -> dict[int, NDArray[np.int32]]:
        """The token ids of evenly spaced texts, by index: the same ones on every rank and after a restart."""
        sample: dict[int, NDArray[np.int32]] = {}
        indices = evenly_spaced(len(self.texts), SAMPLED_TEXTS)
        for start in range(0, len(indices), TEXTS_PER_CALL):
            heartbeat()
            part = indices[start : start + TEXTS_PER_CALL]
            sample |= self._tokenize(part.tolist())
        return sample

    def read(self, indices: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of some texts."""
        wanted = indices.tolist()
        made = self._tokenize([index for index in wanted if index not in self.sample])
        return [self.sample[index] if index in self.sample else made[index] for index in wanted]

    def _tokenize(self, indices: list[int]) -> dict[int, NDArray[np.int32]]:
        ids = token_ids(self.tokenize, [self.texts[index].as_py() for index in indices])
        return dict(zip(indices, ids, strict=True))
