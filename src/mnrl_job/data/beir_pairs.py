"""Training data in BEIR layout: every judgment with a score above 0 is a pair of a query and a document."""

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mnrl_job.data.beir import BeirFolder, Qrel, find_beir_folder, find_file, parse_passage, read_ids
from mnrl_job.data.clean_text import ParsedRow
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.errors import DataError

SPLITS = ("train", "dev", "test")
EXPECTED = "training data in BEIR layout is a folder with corpus.jsonl, queries.jsonl and qrels/train.tsv"

# A text by its id, or why it is unusable.
TextsById = dict[str, str | BadRow]


def find_beir_training_folder(root: Path) -> BeirFolder | None:
    """The files of a folder in BEIR layout; None where the folder has no qrels.

    Raises:
        DataError: the qrels are for evaluation only, or a file is missing.
    """
    splits = [split for split in SPLITS if find_file(root, f"qrels/{split}.tsv")]
    if not splits:
        return None
    if "train" not in splits:
        raise DataError(
            f"{root}: qrels/train.tsv is missing, and qrels/{splits[-1]}.tsv is for evaluation only; {EXPECTED}"
        )
    return find_beir_folder(root, "train", EXPECTED)


def read_beir_pairs(folder: BeirFolder) -> Iterator[tuple[str, ParsedRow]]:
    """Yield the location of each judgment with its pair, with no pair if it is not relevant, or why it is unusable.

    The qrels are read twice, so that only the texts they refer to are held in memory.

    Raises:
        DataError: a file has no rows.
    """
    query_ids, document_ids = set(), set()
    for qrel in folder.qrels():
        if isinstance(qrel, Qrel) and (_parse_score(qrel) or 0) > 0:
            query_ids.add(qrel.query)
            document_ids.add(qrel.document)
    queries: TextsById = {}
    corpus: TextsById = {}
    for bad_row in chain(
        _collect_texts(folder.queries_file, query_ids, queries),
        _collect_texts(folder.corpus_file, document_ids, corpus),
    ):
        yield bad_row.where, bad_row
    for qrel in folder.qrels():
        yield qrel.where, qrel if isinstance(qrel, BadRow) else _pair(qrel, folder, queries, corpus)


def _pair(qrel: Qrel, folder: BeirFolder, queries: TextsById, corpus: TextsById) -> ParsedRow:
    score = _parse_score(qrel)
    if score is None:
        return BadRow(qrel.where, "not a number", f"score is {qrel.score!r}")
    if score <= 0:
        return ()
    anchor = _look_up(qrel.where, qrel.query, queries, folder.queries_file)
    positive = _look_up(qrel.where, qrel.document, corpus, folder.corpus_file)
    if isinstance(anchor, BadRow):
        return anchor
    return positive if isinstance(positive, BadRow) else ((anchor, positive),)


def _parse_score(qrel: Qrel) -> float | None:
    try:
        score = float(qrel.score)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _collect_texts(path: Path, wanted: set[str], texts: TextsById) -> Iterator[BadRow]:
    """Fill `texts` with those of the wanted ids. Yield the rows whose id cannot be read."""
    is_empty = True
    for where, row, identifier in read_ids(path):
        is_empty = False
        if isinstance(identifier, BadRow):
            yield identifier
        elif identifier in texts:
            texts[identifier] = BadRow(where, "duplicate id", repr(identifier))
        elif identifier in wanted:
            passage = parse_passage(row, identifier, where)
            texts[identifier] = passage if isinstance(passage, BadRow) else passage.text
    if is_empty and wanted:
        raise DataError(f"{path}: the file has no rows; {EXPECTED}")


def _look_up(where: str, identifier: str, texts: TextsById, file: Path) -> str | BadRow:
    text = texts.get(identifier)
    if text is None:
        return BadRow(where, "unknown id", f"{file.name} has no {identifier!r}")
    return BadRow(where, text.reason, f"{text.detail} at {text.where}") if isinstance(text, BadRow) else text
