"""Sources of training data and eval sets, as `uri`, `name=uri` or `name:weight=uri`."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.config.reader import read_settings
from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from tests.config.reading import REQUIRED, find_problems


def test_sources_without_a_name_are_named_after_their_files():
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_TRAIN_DATA": "faq=a/b.jsonl, c/tickets.jsonl.gz,d/"}, {})
    assert settings.train_data == (
        Source("faq", "a/b.jsonl"),
        Source("tickets", "c/tickets.jsonl.gz"),
        Source("d", "d/"),
    )


def test_two_sources_with_the_same_name_are_refused():
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_TRAIN_DATA": "a/x.jsonl,b/x.csv"})
    assert re.search("MNRL_TRAIN_DATA=.*'x'.*name=uri", problem)


def test_a_source_that_is_not_utf8_is_refused():
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_TRAIN_DATA": "gr\udcf6\udcdfe.csv"})
    assert problem.startswith(r"MNRL_TRAIN_DATA='gr\udcf6\udcdfe.csv' ")


def sources_of(text):
    return read_settings("train", {}, REQUIRED | {"MNRL_TRAIN_DATA": text}, {})[0].train_data


def test_a_source_may_have_a_weight():
    assert sources_of("faq:3=faq.jsonl,tickets:0.5=tickets/,b/c.jsonl") == (
        Source("faq", "faq.jsonl", 3.0),
        Source("tickets", "tickets/", 0.5),
        Source("c", "b/c.jsonl"),
    )


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("s3://bucket/a=b/c.jsonl", Source("c", "s3://bucket/a=b/c.jsonl")),
        ("s3://bucket/a:2=b.jsonl", Source("a-2-b", "s3://bucket/a:2=b.jsonl")),
        ("name=s3://bucket/x", Source("name", "s3://bucket/x")),
        ("name=s3://bucket/a=b:3=c", Source("name", "s3://bucket/a=b:3=c")),
        ("name:2=s3://bucket/a=b:3=c", Source("name", "s3://bucket/a=b:3=c", 2.0)),
        ("C:\\data\\a=b.jsonl", Source("a-b", "C:\\data\\a=b.jsonl")),
        ("C:/data/a=b.jsonl", Source("a-b", "C:/data/a=b.jsonl")),
        ("faq=C:\\a=b.jsonl", Source("faq", "C:\\a=b.jsonl")),
        ("./a:2=b.jsonl", Source("a-2-b", "./a:2=b.jsonl")),
    ],
)
def test_a_uri_may_contain_colons_and_equals_signs(text, source):
    assert sources_of(text) == (source,)


@pytest.mark.parametrize("weight", ["x", "0", "-1", "", "inf", "nan", "1e999"])
def test_a_weight_that_is_not_positive_is_refused(weight):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_TRAIN_DATA": f"good=a.jsonl,faq:{weight}=faq.jsonl"})
    assert problem.startswith("MNRL_TRAIN_DATA=")
    assert f"'faq:{weight}=faq.jsonl': the weight {weight!r} " in problem
    assert "name:weight=uri" in problem


def test_an_eval_set_with_a_weight_is_refused():
    environ = {"MNRL_EVAL_DATA": "a.json,faq:3=faq.json", "MNRL_OUTPUT": "out"}
    (problem,) = find_problems("evaluate", environ=environ)
    assert problem.startswith("MNRL_EVAL_DATA=")
    assert re.search(r"'faq:3=faq\.json': .* faq=faq\.json\)", problem)
    assert "name:weight=uri" not in problem


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
URIS = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=30)
WEIGHTS = st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(source=st.builds(Source, NAMES, URIS, WEIGHTS))
def test_the_text_of_a_source_parses_to_the_same_source(source):
    assert sources_of(str(source)) == (source,)


@given(uri=URIS.filter(lambda uri: "=" not in uri))
def test_the_text_of_a_source_without_a_name_parses_to_the_same_source(uri):
    (source,) = sources_of(uri)
    assert sources_of(str(source)) == (source,)


def test_weights_survive_json():
    (source,) = sources_of("faq:3=faq.jsonl")
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_TRAIN_DATA": str(source)}, {})
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
