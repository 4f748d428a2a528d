"""What users read when something is wrong: the one place where tests pin sentences, the others assert codes and facts.

The catalogue is in `messages`, by what is wrong. A new sentence is a new entry: its name, how to provoke it by the
cheapest layer that says it, the exit code, and the sentence, with paths as they are from the current folder.
"""

import re

import pytest

from mnrl_job.errors import JobError
from mnrl_job.system.secrets import redact
from tests.messages import data, runs, settings

GROUPS = {
    "settings": settings.SETTINGS,
    "nodes": settings.NODES,
    "inputs": data.INPUTS,
    "formats": data.FORMATS,
    "columns": data.COLUMNS,
    "rows": data.ROWS,
    "eval sets": data.EVAL_SETS,
    "batches": data.BATCHES,
    "models": runs.MODELS,
    "storage": runs.STORAGE,
    "publishing": runs.PUBLISHING,
    "tokens": runs.TOKENS,
    "devices": runs.DEVICES,
}
CATALOGUE = {f"{group}: {name}": entry for group, entries in GROUPS.items() for name, entry in entries.items()}
# A variable, a file, an input of the run, or a folder of the catalogue.
WHERE = re.compile(r"([A-Z][A-Z0-9_]+|\.env|[\w/.-]+\.(jsonl|json|csv|tsv|parquet|docx|gz)|train/faq|set)\b")
# How Python shows a class, an instance, a path.
OF_PYTHON = re.compile(r"<class|NoneType|Path\(| object at 0x|\w+Error\(|Traceback")


@pytest.mark.parametrize("name", CATALOGUE)
def test_it_is_refused_with_this_code_and_this_sentence(name, tmp_path, tiny_model, monkeypatch):
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    provoke, code, sentence = CATALOGUE[name]
    with pytest.raises(JobError) as caught:
        provoke()
    assert (redact(str(caught.value)), caught.value.code) == (sentence, code)


@pytest.mark.parametrize(
    "is_so",
    {
        "one line": lambda sentence: "\n" not in sentence,
        "begins with where": WHERE.match,
        "no classes of Python": lambda sentence: not OF_PYTHON.search(sentence),
        "no full stop at its end": lambda sentence: not sentence.endswith("."),
    }.items(),
    ids=lambda rule: rule[0],
)
def test_all_sentences_keep_to(is_so):
    assert [sentence for _, _, sentence in CATALOGUE.values() if not is_so[1](sentence)] == []
