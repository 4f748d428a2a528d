"""Data sets from the texts of Debian packages, for domains that training and its settings were not made on.

    python benchmarks/package_texts.py UNPACKED OUTPUT

UNPACKED is a folder with packages unpacked by `dpkg-deb -x`: manpages, manpages-dev and git-man; libpython3.11-stdlib,
python3-numpy, -scipy, -pandas, -sklearn, -networkx and -matplotlib; perl-doc. OUTPUT gets `manpages` (what a page is
for -> its description), `docstrings` (first line -> the rest), both with train.jsonl and a BEIR eval set in eval/, and
`perlfaq` (question -> answer), an eval set of a domain that none trains on.
"""

import ast
import gzip
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

WORDS = 90
Pair = tuple[str, str]


def manual_pages(root: Path) -> Iterator[Pair]:
    for path in sorted(root.glob("usr/share/man/man*/*.gz")):
        if "delta" in path.name:
            continue
        page = gzip.decompress(path.read_bytes()).decode(errors="replace")
        name, description = (section(page, title) for title in ("NAME", "DESCRIPTION"))
        purpose, text = name.partition(" - ")[2], shorten(description.removeprefix("Header DESCRIPTION "))
        if len(purpose.split()) >= 2 and len(text.split()) >= 15:
            yield purpose, text


def section(page: str, title: str) -> str:
    match = re.search(rf'(?ms)^\.SH "?{title}"?\s*\n(.*?)^\.SH', page)
    return plain(match[1]) if match else ""


REQUESTS = (
    r'(?m)^\.(TH|SH|so|in|ft|TS|TE|nf|fi|EX|EE|PP|P|LP|TP|IP|HP|RS|RE|br|sp|ad|nh|hy|if|ie|el|de|ds|SS|PD|\\").*$'
)


def plain(roff: str) -> str:
    """Text without the requests and escapes of roff."""
    text = re.sub(r"(?m)^\.[A-Z]{1,2}\s+", "", re.sub(REQUESTS, "", roff))
    text = re.sub(r"\\f[A-Z(][A-Z]?|\\s-?\d", "", re.sub(r"(?m)^[.'].*$", "", text))
    for escape, character in (("\\-", "-"), ("\\&", ""), ("\\(aq", "'"), ("\\e", "\\"), ("\\[aq]", "'")):
        text = text.replace(escape, character)
    return clean(re.sub(r"\\\(..|\\\[..?\]|\\.", "", text).replace('"', ""))


def docstrings(root: Path) -> Iterator[Pair]:
    for path in sorted(root.glob("usr/lib/python3*/**/*.py")):
        if "/test" in str(path) or not path.is_file():
            continue
        try:
            tree = ast.parse(path.read_text(errors="replace"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                first, _, rest = text.partition("\n\n")
                rest = shorten(re.sub(r"-{3,}|>>>", "", rest))
                if 4 <= len(first.split()) <= 25 and len(rest.split()) >= 15:
                    yield clean(first).rstrip("."), rest


def perl_faq(root: Path) -> tuple[list[Pair], list[str]]:
    """Questions with their answers, and other sections of the manuals as distractors."""
    pairs, others = [], []
    for path in sorted(root.glob("usr/share/perl/5*/pod/*.pod")):
        heads = re.findall(r"(?ms)^=head2 (.*?)\n(.*?)(?=^=(?:head|cut|back))", path.read_text(errors="replace"))
        for head, body in heads:
            question, text = (clean(re.sub(r"[A-Z]<+\s*(.*?)\s*>+", r"\1", part)) for part in (head, body))
            if len(text.split()) < 15:
                continue
            if "perlfaq" not in path.name:
                others.append(shorten(text))
            elif question.endswith("?"):
                pairs.append((question, shorten(text)))
    random.Random(3).shuffle(others)
    return pairs, others[:300]


def clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def shorten(text: str) -> str:
    return " ".join(text.split()[:WORDS])


def write_domain(folder: Path, pairs: Iterable[Pair], queries: int, documents: int) -> None:
    """Split distinct pairs into an eval set, with other positives as distractors, and training pairs."""
    seen: set[str] = set()
    distinct = []
    for anchor, positive in pairs:
        if anchor.lower() not in seen and positive not in seen:
            seen |= {anchor.lower(), positive}
            distinct.append((anchor, positive))
    random.Random(1).shuffle(distinct)
    write_eval_set(folder / "eval", distinct[:queries], [positive for _, positive in distinct[queries:documents]])
    rows = ({"anchor": anchor, "positive": positive} for anchor, positive in distinct[documents:])
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_eval_set(folder: Path, pairs: list[Pair], others: list[str]) -> None:
    (folder / "qrels").mkdir(parents=True)
    documents = [positive for _, positive in pairs] + others
    corpus = ({"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents))
    queries = ({"_id": f"q{i}", "text": anchor} for i, (anchor, _) in enumerate(pairs))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    qrels = "".join(f"q{i}\td{i}\t1\n" for i in range(len(pairs)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")


def main() -> None:
    root, output = map(Path, sys.argv[1:])
    write_domain(output / "manpages", manual_pages(root), queries=300, documents=900)
    write_domain(output / "docstrings", docstrings(root), queries=400, documents=1200)
    write_eval_set(output / "perlfaq" / "eval", *perl_faq(root))


if __name__ == "__main__":
    main()
