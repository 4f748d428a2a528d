#!/usr/bin/env python3
"""Build the bundled set of general search from WordNet 3.0: `scripts/general_search.py DICT FOLDER`.

DICT holds WordNet's `data.*` and `index.*` files (Debian's `wordnet-base`: /usr/share/wordnet). FOLDER, in BEIR layout,
is what src/mnrl_job/evaluation/general_search holds, byte for byte. It is built once; no test needs WordNet.

The documents are definitions of common senses, with example sentences. There are four kinds of queries: a synonym that
the document does not show, alone (`keyword`) or in a question (`question`); an example sentence that the document does
not show (`sentence`); and the definition of a derived word (`description`).
"""

import gzip
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

QUERIES = {"sentence": 120, "keyword": 120, "question": 80, "description": 80}
DOCUMENTS = 2_000
PARTS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj"}
OFFENSIVE = re.compile(r"\b(sex\w*|slur|derogatory|offensive|disparag\w+|obscen\w+|vulgar|ethnic)\b")
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sense:
    """A meaning: words, definition, example sentences, meanings of derived words, and its uses in a corpus."""

    words: tuple[str, ...]
    definition: str
    sentences: tuple[str, ...]
    derived: tuple[Key, ...]
    uses: int = 0

    def document(self, hidden_word: str = "", hidden_sentence: str = "") -> str:
        words = ", ".join(word for word in self.words if word != hidden_word)
        shown = [
            sentence
            for sentence in self.sentences
            if sentence != hidden_sentence and not (hidden_word and hidden_word.lower() in sentence.lower())
        ]
        return "; ".join([f"{words}: {self.definition}", *shown[:2]])


def read_senses(folder: Path) -> dict[Key, Sense]:
    """All senses of nouns, verbs and adjectives (`man 5 wndb` describes the format)."""
    senses = {}
    for part in sorted(set(PARTS.values())):
        for line in _entries(folder / f"data.{part}"):
            head, _, gloss = line.partition("|")
            fields = head.split()
            count = int(fields[3], 16)
            words = tuple(re.sub(r"\(.*\)", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
            pointers = fields[5 + 2 * count :]
            derived = tuple(
                (PARTS[of], offset)
                for symbol, offset, of in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=False)
                if symbol == "+" and of in PARTS
            )
            parts = [part.strip() for part in gloss.strip().split("; ")]
            definition = "; ".join(part for part in parts if not part.startswith('"'))
            sentences = (part.strip('"').strip() for part in parts if part.startswith('"'))
            senses[part, fields[0]] = Sense(
                words, definition, tuple(s for s in sentences if len(s.split()) > 3), derived
            )
    return senses


def read_first_senses(folder: Path, senses: dict[Key, Sense]) -> dict[tuple[str, str], str]:
    """The most common sense of each word and part of speech. Counts the uses of the senses on the way."""
    first = {}
    for part in sorted(set(PARTS.values())):
        for line in _entries(folder / f"index.{part}"):
            fields = line.split()
            offsets = fields[-int(fields[2]) :]
            first[fields[0].replace("_", " "), part] = offsets[0]
            for offset in offsets[: int(fields[-int(fields[2]) - 1])]:
                senses[part, offset] = replace(senses[part, offset], uses=senses[part, offset].uses + 1)
    return first


def _entries(path: Path) -> Iterator[str]:
    return (line for line in path.open(encoding="utf-8") if not line.startswith("  "))


def question(word: str) -> str:
    """Ask for a word."""
    article = "" if word[0].isupper() else "an " if word[0] in "aeiou" else "a "
    return f"what is {article}{word}?"


def main(source: Path, target: Path) -> None:
    senses = read_senses(source)
    first = read_first_senses(source, senses)
    pool = [
        key
        for key, sense in senses.items()
        if sense.uses and len(sense.definition.split()) > 3 and not OFFENSIVE.search(sense.document())
    ]
    random.Random(7).shuffle(pool)
    wanted = dict(QUERIES)
    queries: list[tuple[str, str, Key]] = []
    corpus: dict[Key, str] = {}
    for key in pool:
        for kind, query, document in _queries(key, senses, first):
            if wanted[kind]:
                wanted[kind] -= 1
                queries.append((kind, query, key))
                corpus[key] = document
                break
    by_word: dict[str, list[Key]] = {}
    for key in pool:
        by_word.setdefault(senses[key].words[0], []).append(key)
    # Other senses of the same words make a query's word alone too little to find its document.
    rivals = [rival for key in corpus for rival in by_word[senses[key].words[0]][:2]]
    for key in [*rivals, *pool]:
        if len(corpus) < DOCUMENTS:
            corpus.setdefault(key, senses[key].document())
    target.mkdir(parents=True, exist_ok=True)
    ids = {key: f"{key[0]}-{key[1]}" for key in corpus}
    numbered = {f"{kind}-{number}": (query, ids[key]) for number, (kind, query, key) in enumerate(queries)}
    _write(target / "corpus.jsonl.gz", ({"_id": ids[key], "text": text} for key, text in sorted(corpus.items())))
    _write(target / "queries.jsonl.gz", ({"_id": name, "text": query} for name, (query, _) in numbered.items()))
    lines = (f"{name}\t{document}\t1\n" for name, (_, document) in numbered.items())
    (target / "qrels").mkdir(exist_ok=True)
    (target / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def _queries(key: Key, senses: dict[Key, Sense], first: dict[tuple[str, str], str]) -> Iterator[tuple[str, str, str]]:
    """Each kind of query that this sense answers, and its document without the text of the query."""
    sense, part = senses[key], key[0]

    def is_common(word: str) -> bool:
        return first.get((word.lower(), part)) == key[1]

    if sense.sentences and is_common(sense.words[0]):
        yield "sentence", sense.sentences[0], sense.document(hidden_sentence=sense.sentences[0])
    if len(sense.words) > 1:
        shown, hidden = (word.lower() for word in sense.words[:2])
        if is_common(sense.words[1]) and shown not in hidden and hidden not in shown and shown[:4] != hidden[:4]:
            document = sense.document(hidden_word=sense.words[1])
            yield "keyword", sense.words[1], document
            if part == "noun":
                yield "question", question(sense.words[1]), document
    for other in sense.derived:
        if other in senses and other[0] != part and len(senses[other].definition.split()) > 4:
            yield "description", senses[other].definition, sense.document()
            break


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)  # noqa: TID251 - runs without mnrl_job
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
