"""JSON without NaN, in every file and log line."""

import json
import logging
import math
from dataclasses import dataclass

import numpy as np
import pytest

from mnrl_job.evaluation.results import QueryResult
from mnrl_job.report.json_file import write_json
from mnrl_job.report.page.query_explorer import in_script
from mnrl_job.report.rankings import write_rankings
from mnrl_job.system import heartbeat
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import _JsonLines
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import write_record

BAD = (math.nan, math.inf, -math.inf, np.float64("nan"))


def strictly(text):
    """Parse as other languages do."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", BAD)
def test_nan_and_infinity_become_null_at_any_depth(number):
    content = {"a": [1, (0.5, number)], "b": {"c": number}, "d": "NaN", "e": None, "f": True}
    assert strictly(dumps(content)) == {"a": [1, [0.5, None]], "b": {"c": None}, "d": "NaN", "e": None, "f": True}
    assert dumps({"ü": 0.1}, ensure_ascii=False, indent=1) == json.dumps({"ü": 0.1}, ensure_ascii=False, indent=1)


def test_a_value_that_is_not_json_is_an_error():
    with pytest.raises(TypeError):
        dumps({"a": object(), "b": math.nan})


@dataclass(frozen=True)
class Figures:
    values: dict[str, tuple[float, ...]]


@pytest.mark.parametrize("number", BAD)
def test_every_writer_of_json_uses_null_for_nan(number, tmp_path, monkeypatch):
    write_json(tmp_path / "metrics.json", {"loss": number})
    write_record(tmp_path / "result.json", Figures({"loss": (number,)}))
    result = QueryResult("q", 1, number, {"ndcg@10": number}, (("d", number),))
    write_rankings(tmp_path / "rankings.jsonl", {"q": "text"}, [result], [result])
    monkeypatch.setenv(heartbeat.FILE, str(tmp_path / "heart.json"))
    heartbeat.enter_phase(Phase.TRAIN, loss=number)
    written = [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    record = logging.LogRecord("mnrl_job", logging.INFO, "", 0, "step 1", None, None)
    record.fields = {"loss": number}
    for text in (*written, _JsonLines().format(record), str(in_script({"loss": number}))):
        assert "null" in text
        strictly(text)
