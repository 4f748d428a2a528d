"""Chunks split further: to need less memory, or so that all ranks embed the same number of chunks."""

import torch

from mnrl_job.embedding.tokens import Features


def split_chunk(features: Features, parts: int) -> list[Features]:
    """Split a chunk into sub-chunks of nearly equal numbers of texts, at most one per text."""
    if parts == 1:
        return [features]
    texts = len(features["input_ids"])
    sub_chunks: list[Features] = []
    for rows in torch.arange(texts).tensor_split(min(parts, texts)):
        subset = slice(int(rows[0]), int(rows[-1]) + 1)
        sub_chunks.append({key: value[subset] if torch.is_tensor(value) else value for key, value in features.items()})
    return sub_chunks


def split_to_count(chunks: list[Features], count: int) -> list[Features]:
    """Halve the largest chunks until there are `count` of them, in the same order.

    If there are not enough texts, since the rows of other ranks have more negatives, the last one is repeated:
    embeddings beyond those of the batch are not used.
    """
    chunks = list(chunks)
    while len(chunks) < count:
        largest = max(range(len(chunks)), key=lambda index: len(chunks[index]["input_ids"]))
        halves = split_chunk(chunks[largest], 2)
        if len(halves) == 1:
            return chunks + chunks[-1:] * (count - len(chunks))
        chunks[largest : largest + 1] = halves
    return chunks
