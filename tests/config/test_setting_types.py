"""Values that are accepted and refused, by type of setting."""

import json
import re

import pytest

from mnrl_job.config import documentation
from mnrl_job.config.reader import read_settings
from mnrl_job.config.setting_types import Hardness
from mnrl_job.config.settings import Settings
from tests.config.reading import REQUIRED, find_problems


def test_a_blank_model_is_not_the_current_folder():
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_BASE_MODEL": " "})
    assert problem.startswith("MNRL_BASE_MODEL=' ' ")


@pytest.mark.parametrize(
    ("text", "hardness"),
    [
        ("9", Hardness("all_negatives", 9)),
        ("in_batch_negatives:9", Hardness("in_batch_negatives", 9)),
        ("hard_negatives:2.5", Hardness("hard_negatives", 2.5)),
    ],
)
def test_hardness_is_a_strength_with_an_optional_mode(text, hardness):
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_HARDNESS": text}, {})
    assert settings.hardness == hardness
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
    again, _ = read_settings("train", {}, REQUIRED | {"MNRL_HARDNESS": str(hardness)}, {})
    assert again == settings


@pytest.mark.parametrize("text", ["0", "-1", "inf", "much", "negatives:9", "hard_negatives", "hard_negatives:", ":9"])
def test_an_invalid_hardness_is_refused(text):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_HARDNESS": text})
    assert problem.startswith(f"MNRL_HARDNESS={text!r} ")
    assert re.search("above 0 .*in_batch_negatives:9, hard_negatives:5", problem)


@pytest.mark.parametrize("loss", ["mnrl", "guided"])
def test_a_guide_model_and_the_guided_loss_require_each_other(loss):
    environ = {"MNRL_LOSS": "guided"} if loss == "guided" else {"MNRL_GUIDE_MODEL": "owner/guide"}
    (problem,) = find_problems(environ=REQUIRED | environ)
    assert "MNRL_LOSS=guided" in problem
    assert "MNRL_GUIDE_MODEL" in problem
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "owner/guide"}, {})
    assert settings.guide_model == "owner/guide"


def test_matryoshka_dimensions_are_parsed():
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_MATRYOSHKA_DIMS": "768, 256,64"}, {})
    assert settings.matryoshka_dims == (768, 256, 64)


def test_the_range_of_hard_negatives_must_have_enough_ranks():
    environ = {"MNRL_NUM_HARD_NEGATIVES": "5", "MNRL_HARD_NEGATIVE_RANGE": "11 - 15"}
    settings, _ = read_settings("train", {}, REQUIRED | environ, {})
    assert str(settings.hard_negative_range) == "11-15"
    for ranks, reason in {
        "12-15": "MNRL_NUM_HARD_NEGATIVES=5",
        "15-11": "ascending",
        "0-9": "",
        "9": "",
    }.items():
        (problem,) = find_problems(environ=REQUIRED | environ | {"MNRL_HARD_NEGATIVE_RANGE": ranks})
        assert problem.startswith(f"MNRL_HARD_NEGATIVE_RANGE={ranks!r} ")
        assert reason in problem
        assert "1-100" in problem
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize("text", ["64,256", "64,64", "0", "-3", "64,x", "1.5"])
def test_invalid_matryoshka_dimensions_are_refused(text):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_MATRYOSHKA_DIMS": text})
    assert problem.startswith(f"MNRL_MATRYOSHKA_DIMS={text!r} ")
    assert problem.endswith(" 768,256,64")


def test_a_prompt_keeps_its_trailing_space_and_an_empty_flag_removes_the_prompt():
    settings, _ = read_settings("train", {"document_prompt": ""}, REQUIRED | {"MNRL_QUERY_PROMPT": "query: "}, {})
    assert (settings.query_prompt, settings.document_prompt) == ("query: ", "")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    unset, _ = read_settings("train", {}, REQUIRED | {"MNRL_QUERY_PROMPT": ""}, {})
    assert unset.query_prompt is None


def test_repeated_trackers_are_ignored_and_unknown_ones_refused():
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_REPORT_TO": "wandb, mlflow,wandb"}, {})
    assert settings.report_to == ("wandb", "mlflow")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_REPORT_TO": "wandb,comet"})
    assert re.search("^MNRL_REPORT_TO='wandb,comet' .* tensorboard, wandb, mlflow", problem)


@pytest.mark.parametrize("value", ["auto", "1", "8"])
def test_num_processes_is_auto_or_a_number(value):
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_NUM_PROCESSES": value}, {})
    assert str(settings.num_processes) == value


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_an_invalid_num_processes_is_refused(value):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_NUM_PROCESSES": value})
    assert re.search(f"^MNRL_NUM_PROCESSES='{value}' .* auto .* 1$", problem)


@pytest.mark.parametrize("value", ["1", "2", "2:8", "4:4"])
def test_num_nodes_is_a_number_or_a_range(value):
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_NUM_NODES": value}, {})
    assert str(settings.num_nodes) == {"4:4": "4"}.get(value, value)
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize("value", ["8:2", "0", "0:2", "2:", ":2", "a", "-1", "1.5", "2:3:4"])
def test_an_invalid_num_nodes_is_refused(value):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_NUM_NODES": value})
    assert re.search(rf"^MNRL_NUM_NODES='{value}' is invalid .* at least 1, or MIN:MAX, as in 2:8$", problem)


def test_a_secret_is_stripped_and_never_shown():
    settings, origins = read_settings("train", {}, REQUIRED | {"MNRL_GROUP_SECRET": "s3cret-words\n"}, {})
    assert settings.group_secret.get_secret_value() == "s3cret-words"
    assert "s3cret-words" not in documentation.as_table(settings, origins) + repr(settings) + settings.model_dump_json()
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_GROUP_SECRET": "'s3cret-words'"})
    assert problem.startswith("MNRL_GROUP_SECRET has literal quotes")
    assert "s3cret-words" not in problem


@pytest.mark.parametrize(("value", "seconds"), [("5s", 5), ("2m", 120), ("1h", 3600)])
def test_a_duration_requires_a_unit(value, seconds):
    settings, _ = read_settings("train", {}, REQUIRED | {"MNRL_NODE_TIMEOUT": value}, {})
    assert settings.node_timeout.seconds == seconds
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_NODE_TIMEOUT": value[:-1]})
    assert re.search(rf"^MNRL_NODE_TIMEOUT='{value[:-1]}' .*\(30s, 2m, 1h\)$", problem)


def test_a_sharded_model_does_not_support_mining_in_every_epoch():
    environ = REQUIRED | {"MNRL_MINING_INTERVAL": "epoch", "MNRL_ACCELERATE_CONFIG": "fsdp.yaml"}
    (problem,) = find_problems(environ=environ)
    assert "MNRL_MINING_INTERVAL=epoch" in problem
