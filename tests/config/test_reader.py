"""Reading settings from flags, the environment and `.env`, and how problems are reported."""

import re

import pytest

from mnrl_job.config.flags import export_other_variables
from mnrl_job.config.reader import read_settings
from tests.config.reading import REQUIRED, find_problems


def test_flags_take_precedence_over_the_environment_dotenv_and_defaults():
    dotenv = {"MNRL_BATCH_SIZE": "8", "MNRL_SEED": "1", "MNRL_EPOCHS": "3"}
    environ = REQUIRED | {"MNRL_BATCH_SIZE": "16", "MNRL_SEED": "2"}
    settings, origins = read_settings("train", {"batch_size": "32"}, environ, dotenv)
    assert (settings.batch_size, settings.seed, settings.epochs, settings.warmup_ratio) == (32, 2, 3, 0.1)
    assert origins["batch_size"] == "--batch-size"
    assert origins["seed"] == "MNRL_SEED"
    assert origins["epochs"] == "MNRL_EPOCHS in .env"


def test_all_problems_are_reported_at_once_with_variable_value_and_accepted_values():
    environ = {
        "MNRL_BATCH_SIZE": "many",
        "MNRL_WARMUP_RATIO": "7",
        "MNRL_PRECISION": "fp8",
        "MNRL_PRIMARY_METRIC": "bleu",
    }
    problems = "\n".join(find_problems(environ=environ))
    assert re.search("^MNRL_BATCH_SIZE='many' .* 2$", problems, re.M)
    assert re.search("^MNRL_WARMUP_RATIO='7' .* 0 to 1$", problems, re.M)
    assert re.search("^MNRL_PRECISION='fp8' .* auto, fp32, bf16 or fp16$", problems, re.M)
    assert "MNRL_PRIMARY_METRIC='bleu' " in problems
    assert "MNRL_TRAIN_DATA is required" in problems
    assert "MNRL_OUTPUT is required" in problems
    assert len(problems.splitlines()) == 6


def test_a_number_out_of_range_is_refused_with_the_range():
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_LEARNING_RATE": "2"})
    assert re.search("^MNRL_LEARNING_RATE='2' .* above 0 .* 1$", problem)


def test_an_unknown_name_is_an_error_with_a_suggestion():
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_BATCHSIZE": "8"})
    assert re.search(r"^MNRL_BATCHSIZE .* MNRL_BATCH_SIZE\?$", problem)
    (problem,) = find_problems(environ=REQUIRED, dotenv={"MNRL_OUTPT": "x"})
    assert re.search(r"^MNRL_OUTPT in \.env .* MNRL_OUTPUT\?$", problem)


def test_variables_of_the_image_are_neither_settings_nor_errors():
    _, origins = read_settings("train", {}, REQUIRED | {"MNRL_JOB_IMAGE": "a:1", "MNRL_JOB_GIT_SHA": "f"}, {})
    assert origins.keys() == {"train_data", "output"}
    assert find_problems(environ=REQUIRED | {"MNRL_JOB_SHA": "f"})[0].startswith("MNRL_JOB_SHA is not a setting")


def test_other_variables_in_dotenv_are_exported_unless_they_are_set():
    environ = {"HF_HOME": "/mine"}
    export_other_variables({"HF_TOKEN": "t", "HF_HOME": "/other", "MNRL_SEED": "1", "EMPTY": None}, environ)
    assert environ == {"HF_HOME": "/mine", "HF_TOKEN": "t"}


def test_an_invalid_value_in_dotenv_is_reported_with_its_origin():
    (problem,) = find_problems(environ=REQUIRED, dotenv={"MNRL_SEED": "x"})
    assert problem.startswith("MNRL_SEED='x' in .env ")


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("train", "MNRL_TRAIN_DATA", ","),
        ("check", "MNRL_TRAIN_DATA", " , "),
        ("evaluate", "MNRL_EVAL_DATA", ","),
        ("evaluate", "MNRL_OUTPUT", " "),
        ("train", "MNRL_OUTPUT", "\t"),
    ],
)
def test_a_required_setting_of_whitespace_and_commas_is_missing(command, name, value):
    environ = REQUIRED | {"MNRL_EVAL_DATA": "faq.json"}
    (problem,) = find_problems(command, environ=environ | {name: value})
    assert problem.startswith(f"{name} is required")
    problems = find_problems(command, environ=environ | {name: value, "MNRL_EPOCHS": "0"})
    assert [problem.partition(" ")[0] for problem in problems] == ["MNRL_EPOCHS='0'", name], "all problems at once"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CHECKPOINT_EVERY", "CHECKPOINT_INTERVAL"),
        ("EVAL_EVERY", "EVAL_INTERVAL"),
        ("EVAL_HOLDOUT", "HOLDOUT_RATIO"),
        ("HARD_NEGATIVES", "NUM_HARD_NEGATIVES"),
        ("HARD_NEGATIVE_MARGIN", "HARD_NEGATIVE_RELATIVE_MARGIN"),
        ("HARD_NEGATIVE_RANKS", "HARD_NEGATIVE_RANGE"),
        ("LEAKAGE", "LEAKAGE_POLICY"),
        ("MASTER", "MASTER_ADDR"),
        ("MAX_BAD_ROWS", "MAX_BAD_ROW_RATIO"),
        ("METRICS_AT", "METRIC_CUTOFFS"),
        ("MINE_EVERY", "MINING_INTERVAL"),
        ("NEAR_DUPLICATES", "NEAR_DUPLICATE_THRESHOLD"),
        ("NODES", "NUM_NODES"),
        ("PATIENCE", "EARLY_STOPPING_PATIENCE"),
        ("SCHEDULE", "LR_SCHEDULER"),
        ("TRACK", "REPORT_TO"),
        ("WARMUP", "WARMUP_RATIO"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(old, new):
    (problem,) = find_problems(environ=REQUIRED | {f"MNRL_{old}": "2"})
    assert problem == f"MNRL_{old} is not a setting; did you mean MNRL_{new}?"


def test_a_removed_setting_is_refused_with_what_applies_instead(mnrl_job):
    reason = "duplicates are kept apart where possible, and masked where not; remove it"
    assert find_problems(environ=REQUIRED | {"MNRL_BATCHING": "masked"}) == [
        f"MNRL_BATCHING is no longer a setting: {reason}"
    ]
    ended = mnrl_job("train", "--batching", "masked")
    assert ended.code == 64
    assert f"--batching is no longer an option: {reason}" in ended.last_line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--mine-every", "--mining-interval"),
        ("--patience", "--early-stopping-patience"),
        ("--schedule", "--lr-scheduler"),
        ("--track", "--report-to"),
    ],
)
def test_an_old_flag_is_refused_with_the_new_one(mnrl_job, old, new):
    result = mnrl_job("train", old, "2")
    assert result.code == 64
    assert f"'{new}'" in result.last_line


def test_the_removed_export_setting_exits_with_64_and_names_the_command(mnrl_job):
    (problem,) = find_problems(environ=REQUIRED | {"MNRL_EXPORT": "onnx"})
    assert problem.startswith("MNRL_EXPORT is no longer a setting: export a published run with `mnrl-job export ")
    result = mnrl_job("train", "--export", "onnx")
    assert result.code == 64
    assert "`mnrl-job export RUN_URI --format FORMAT`" in result.last_line


def test_an_unknown_flag_exits_with_64(mnrl_job):
    result = mnrl_job("train", "--batchsize", "8")
    assert result.code == 64
    assert "--batchsize" in result.last_line


@pytest.mark.parametrize("blanks", [" {}", "{} ", "\t{}\n", "{}\r\n"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MNRL_PRECISION", "bf16"),
        ("MNRL_LEAKAGE_POLICY", "keep"),
        ("MNRL_MINI_BATCH_SIZE", "auto"),
        ("MNRL_NUM_PROCESSES", "2"),
        ("MNRL_GRADIENT_CHECKPOINTING", "true"),
        ("MNRL_HANG_TIMEOUT", "90s"),
        ("MNRL_CHECKPOINT_INTERVAL", "500"),
        ("MNRL_NEAR_DUPLICATE_THRESHOLD", "off"),
        ("MNRL_METRIC_CUTOFFS", "1, 10"),
        ("MNRL_MATRYOSHKA_DIMS", "64,32"),
        ("MNRL_HARDNESS", "hard_negatives : 5"),
        ("MNRL_PRIMARY_METRIC", "ndcg@10"),
        ("MNRL_HARD_NEGATIVE_RANGE", "1-50"),
        ("MNRL_REPORT_TO", "wandb"),
        ("MNRL_RUN_ID", "r1"),
        ("MNRL_BASE_MODEL", "owner/name"),
        ("MNRL_MASTER_ADDR", "node-0:29500"),
        ("MNRL_EVAL_DATA", "a.json,b.json"),
    ],
)
def test_whitespace_around_a_value_is_ignored(name, text, blanks):
    plain, _ = read_settings("train", {}, REQUIRED | {name: text}, {})
    assert read_settings("train", {}, REQUIRED | {name: blanks.format(text)}, {})[0] == plain
    flag = name.removeprefix("MNRL_").lower()
    assert read_settings("train", {flag: blanks.format(text)}, REQUIRED, {})[0] == plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MNRL_PRECISION", '"bf16"'),
        ("MNRL_SEED", "'7'"),
        ("MNRL_OUTPUT", '"s3://bucket/runs"'),
        ("MNRL_RUN_ID", "'r1'"),
        ("MNRL_BASE_MODEL", "“owner/name”"),
        ("MNRL_TRAIN_DATA", 'a.jsonl,"b.jsonl"'),
        ("MNRL_NEGATIVE_COLUMNS", "'n1', 'n2'"),
        ("MNRL_ANCHOR_COLUMN", '"question" '),
        ("MNRL_QUERY_PROMPT", '"query: "'),
    ],
)
def test_literal_quotes_are_refused_for_every_type_of_value(name, value):
    (problem,) = find_problems(environ=REQUIRED | {name: value})
    assert problem.startswith(f"{name}={value} has literal quotes")
    assert "docker run --env-file" in problem
    environ = {required: text for required, text in REQUIRED.items() if required != name}
    (problem,) = find_problems(environ=environ, dotenv=REQUIRED | {name: value})
    assert problem.startswith(f"{name}={value} in .env has literal quotes")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MNRL_QUERY_PROMPT", 'say "this", "that": '), ("MNRL_OUTPUT", "it's"), ("MNRL_POSITIVE_COLUMN", "'a' or 'b'")],
)
def test_quotes_inside_a_value_are_kept(name, value):
    settings, _ = read_settings("train", {}, REQUIRED | {name: value}, {})
    assert getattr(settings, name.removeprefix("MNRL_").lower()) == value


def test_a_setting_in_lower_case_is_refused_with_the_right_name():
    (problem,) = find_problems(environ=REQUIRED | {"mnrl_seed": "7", "mnrl_other": "x"})
    assert re.search(r"^mnrl_seed .* MNRL_SEED\?$", problem)
