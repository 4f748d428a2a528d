"""Settings: one model, and everything users see of it."""

import json
import re
import resource
import subprocess
import sys

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.cli import export_other_variables
from mnrl_job.config import documentation
from mnrl_job.config.reader import read_settings
from mnrl_job.config.setting_types import Hardness, Source
from mnrl_job.config.settings import Settings, env_name, flag_name
from mnrl_job.errors import SettingsError
from tests.program import ROOT, clean_environment, command

NEEDED = {"MNRL_TRAIN_DATA": "pairs.jsonl", "MNRL_OUTPUT": "out"}


def problems_of(command="train", flags=None, environ=None, dotenv=None):
    with pytest.raises(SettingsError) as caught:
        read_settings(command, flags or {}, environ or {}, dotenv or {})
    return str(caught.value).splitlines()


def test_a_flag_wins_over_the_environment_which_wins_over_dotenv_which_wins_over_the_default():
    dotenv = {"MNRL_BATCH_SIZE": "8", "MNRL_SEED": "1", "MNRL_EPOCHS": "3"}
    environ = NEEDED | {"MNRL_BATCH_SIZE": "16", "MNRL_SEED": "2"}
    settings, origins = read_settings("train", {"batch_size": "32"}, environ, dotenv)
    assert (settings.batch_size, settings.seed, settings.epochs, settings.warmup_ratio) == (32, 2, 3, 0.1)
    assert origins["batch_size"] == "--batch-size"
    assert origins["seed"] == "MNRL_SEED"
    assert origins["epochs"] == "MNRL_EPOCHS in .env"


def test_all_problems_are_told_at_once_each_with_variable_value_and_what_is_accepted():
    environ = {
        "MNRL_BATCH_SIZE": "many",
        "MNRL_WARMUP_RATIO": "7",
        "MNRL_PRECISION": "fp8",
        "MNRL_PRIMARY_METRIC": "bleu",
    }
    problems = "\n".join(problems_of(environ=environ))
    assert re.search("^MNRL_BATCH_SIZE='many' .* 2$", problems, re.M)
    assert re.search("^MNRL_WARMUP_RATIO='7' .* 0 to 1$", problems, re.M)
    assert re.search("^MNRL_PRECISION='fp8' .* auto, fp32, bf16 or fp16$", problems, re.M)
    assert "MNRL_PRIMARY_METRIC='bleu' " in problems
    assert "MNRL_TRAIN_DATA is required" in problems
    assert "MNRL_OUTPUT is required" in problems
    assert len(problems.splitlines()) == 6


def test_a_number_beyond_a_bound_is_refused_with_that_bound():
    (problem,) = problems_of(environ=NEEDED | {"MNRL_LEARNING_RATE": "2"})
    assert re.search("^MNRL_LEARNING_RATE='2' .* above 0 .* 1$", problem)


def test_an_unknown_name_is_an_error_with_a_suggestion():
    (problem,) = problems_of(environ=NEEDED | {"MNRL_BATCHSIZE": "8"})
    assert re.search(r"^MNRL_BATCHSIZE .* MNRL_BATCH_SIZE\?$", problem)
    (problem,) = problems_of(environ=NEEDED, dotenv={"MNRL_OUTPT": "x"})
    assert re.search(r"^MNRL_OUTPT in \.env .* MNRL_OUTPUT\?$", problem)


def test_what_an_image_says_of_itself_is_no_setting_and_no_error():
    _, origins = read_settings("train", {}, NEEDED | {"MNRL_JOB_IMAGE": "a:1", "MNRL_JOB_GIT_SHA": "f"}, {})
    assert origins.keys() == {"train_data", "output"}
    assert problems_of(environ=NEEDED | {"MNRL_JOB_SHA": "f"})[0].startswith("MNRL_JOB_SHA is not a setting")


def test_other_names_in_dotenv_reach_the_libraries_unless_the_environment_has_them():
    environ = {"HF_HOME": "/mine"}
    export_other_variables({"HF_TOKEN": "t", "HF_HOME": "/other", "MNRL_SEED": "1", "EMPTY": None}, environ)
    assert environ == {"HF_HOME": "/mine", "HF_TOKEN": "t"}


def test_a_wrong_value_in_dotenv_is_told_as_such():
    (problem,) = problems_of(environ=NEEDED, dotenv={"MNRL_SEED": "x"})
    assert problem.startswith("MNRL_SEED='x' in .env ")


def test_several_sources_keep_their_names_or_take_those_of_their_files():
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_TRAIN_DATA": "faq=a/b.jsonl, c/tickets.jsonl.gz,d/"}, {})
    assert settings.train_data == (
        Source("faq", "a/b.jsonl"),
        Source("tickets", "c/tickets.jsonl.gz"),
        Source("d", "d/"),
    )


def test_two_sources_of_one_name_are_refused():
    (problem,) = problems_of(environ=NEEDED | {"MNRL_TRAIN_DATA": "a/x.jsonl,b/x.csv"})
    assert re.search("MNRL_TRAIN_DATA=.*'x'.*name=uri", problem)


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
def test_what_is_required_is_not_given_by_blanks_and_commas(command, name, value):
    environ = NEEDED | {"MNRL_EVAL_DATA": "faq.json"}
    (problem,) = problems_of(command, environ=environ | {name: value})
    assert problem.startswith(f"{name} is required")
    problems = problems_of(command, environ=environ | {name: value, "MNRL_EPOCHS": "0"})
    assert [one.partition(" ")[0] for one in problems] == ["MNRL_EPOCHS='0'", name], "all at once"


def test_a_model_without_a_name_is_not_the_folder_that_we_stand_in():
    (problem,) = problems_of(environ=NEEDED | {"MNRL_BASE_MODEL": " "})
    assert problem.startswith("MNRL_BASE_MODEL=' ' ")


def test_a_source_whose_name_is_not_utf8_is_refused_with_its_setting():
    (problem,) = problems_of(environ=NEEDED | {"MNRL_TRAIN_DATA": "gr\udcf6\udcdfe.csv"})
    assert problem.startswith(r"MNRL_TRAIN_DATA='gr\udcf6\udcdfe.csv' ")


def sources_of(text):
    return read_settings("train", {}, NEEDED | {"MNRL_TRAIN_DATA": text}, {})[0].train_data


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
def test_colons_and_equals_signs_in_a_uri_are_its_own(text, source):
    assert sources_of(text) == (source,)


@pytest.mark.parametrize("weight", ["x", "0", "-1", "", "inf", "nan", "1e999"])
def test_a_weight_that_is_no_number_above_0_is_refused_with_its_item(weight):
    (problem,) = problems_of(environ=NEEDED | {"MNRL_TRAIN_DATA": f"good=a.jsonl,faq:{weight}=faq.jsonl"})
    assert problem.startswith("MNRL_TRAIN_DATA=")
    assert f"'faq:{weight}=faq.jsonl': the weight {weight!r} " in problem
    assert "name:weight=uri" in problem


def test_an_eval_set_with_a_weight_is_refused_in_one_line():
    environ = {"MNRL_EVAL_DATA": "a.json,faq:3=faq.json", "MNRL_OUTPUT": "out"}
    (problem,) = problems_of("evaluate", environ=environ)
    assert problem.startswith("MNRL_EVAL_DATA=")
    assert re.search(r"'faq:3=faq\.json': .* faq=faq\.json\)", problem)
    assert "name:weight=uri" not in problem


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
URIS = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=30)
WEIGHTS = st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(source=st.builds(Source, NAMES, URIS, WEIGHTS))
def test_a_source_is_read_back_from_its_text(source):
    assert sources_of(str(source)) == (source,)


@given(uri=URIS.filter(lambda uri: "=" not in uri))
def test_a_source_without_a_name_is_read_back_with_the_one_it_took(uri):
    (source,) = sources_of(uri)
    assert sources_of(str(source)) == (source,)


def test_weights_reach_the_workers():
    (source,) = sources_of("faq:3=faq.jsonl")
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_TRAIN_DATA": str(source)}, {})
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize(
    ("text", "hardness"),
    [
        ("9", Hardness("all_negatives", 9)),
        ("in_batch_negatives:9", Hardness("in_batch_negatives", 9)),
        ("hard_negatives:2.5", Hardness("hard_negatives", 2.5)),
    ],
)
def test_hardness_is_a_strength_and_which_negatives(text, hardness):
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_HARDNESS": text}, {})
    assert settings.hardness == hardness
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
    again, _ = read_settings("train", {}, NEEDED | {"MNRL_HARDNESS": str(hardness)}, {})
    assert again == settings


@pytest.mark.parametrize("text", ["0", "-1", "inf", "much", "negatives:9", "hard_negatives", "hard_negatives:", ":9"])
def test_any_other_hardness_is_refused_in_one_line(text):
    (problem,) = problems_of(environ=NEEDED | {"MNRL_HARDNESS": text})
    assert problem.startswith(f"MNRL_HARDNESS={text!r} ")
    assert re.search("above 0 .*in_batch_negatives:9, hard_negatives:5", problem)


@pytest.mark.parametrize("loss", ["mnrl", "guided"])
def test_a_guide_and_the_guided_loss_need_one_another(loss):
    given = {"MNRL_LOSS": "guided"} if loss == "guided" else {"MNRL_GUIDE_MODEL": "owner/guide"}
    (problem,) = problems_of(environ=NEEDED | given)
    assert "MNRL_LOSS=guided" in problem
    assert "MNRL_GUIDE_MODEL" in problem
    both, _ = read_settings("train", {}, NEEDED | {"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "owner/guide"}, {})
    assert both.guide_model == "owner/guide"


def test_dimensions_fall():
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_MATRYOSHKA_DIMS": "768, 256,64"}, {})
    assert settings.matryoshka_dims == (768, 256, 64)


def test_negatives_are_mined_from_places_that_are_enough_for_them():
    wanted = {"MNRL_NUM_HARD_NEGATIVES": "5", "MNRL_HARD_NEGATIVE_RANGE": "11 - 15"}
    settings, _ = read_settings("train", {}, NEEDED | wanted, {})
    assert str(settings.hard_negative_range) == "11-15"
    for places, reason in {
        "12-15": "MNRL_NUM_HARD_NEGATIVES=5",
        "15-11": "ascending",
        "0-9": "",
        "9": "",
    }.items():
        (problem,) = problems_of(environ=NEEDED | wanted | {"MNRL_HARD_NEGATIVE_RANGE": places})
        assert problem.startswith(f"MNRL_HARD_NEGATIVE_RANGE={places!r} ")
        assert reason in problem
        assert "1-100" in problem
    (problem,) = problems_of(environ=NEEDED | {"MNRL_MINING_INTERVAL": "epoch", "MNRL_ACCELERATE_CONFIG": "fsdp.yaml"})
    assert "MNRL_MINING_INTERVAL=epoch" in problem
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize("text", ["64,256", "64,64", "0", "-3", "64,x", "1.5"])
def test_other_dimensions_are_refused_in_one_line(text):
    (problem,) = problems_of(environ=NEEDED | {"MNRL_MATRYOSHKA_DIMS": text})
    assert problem.startswith(f"MNRL_MATRYOSHKA_DIMS={text!r} ")
    assert problem.endswith(" 768,256,64")


def test_the_space_at_the_end_of_a_prompt_is_kept_and_an_empty_flag_takes_a_prompt_away():
    settings, _ = read_settings("train", {"document_prompt": ""}, NEEDED | {"MNRL_QUERY_PROMPT": "query: "}, {})
    assert (settings.query_prompt, settings.document_prompt) == ("query: ", "")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    unset, _ = read_settings("train", {}, NEEDED | {"MNRL_QUERY_PROMPT": ""}, {})
    assert unset.query_prompt is None


def test_trackers_are_named_once_each():
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_REPORT_TO": "wandb, mlflow,wandb"}, {})
    assert settings.report_to == ("wandb", "mlflow")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    (problem,) = problems_of(environ=NEEDED | {"MNRL_REPORT_TO": "wandb,comet"})
    assert re.search("^MNRL_REPORT_TO='wandb,comet' .* tensorboard, wandb, mlflow", problem)


@pytest.mark.parametrize("value", ["auto", "1", "8"])
def test_num_processes_takes_auto_or_a_number(value):
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_NUM_PROCESSES": value}, {})
    assert str(settings.num_processes) == value


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_num_processes_refuses_anything_else_in_one_line(value):
    (problem,) = problems_of(environ=NEEDED | {"MNRL_NUM_PROCESSES": value})
    assert re.search(f"^MNRL_NUM_PROCESSES='{value}' .* auto .* 1$", problem)


@pytest.mark.parametrize("value", ["1", "2", "2:8", "4:4"])
def test_nodes_are_a_number_or_a_range(value):
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_NUM_NODES": value}, {})
    assert str(settings.num_nodes) == {"4:4": "4"}.get(value, value)
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize("value", ["8:2", "0", "0:2", "2:", ":2", "a", "-1", "1.5", "2:3:4"])
def test_any_other_number_of_nodes_is_refused_in_one_line(value):
    (problem,) = problems_of(environ=NEEDED | {"MNRL_NUM_NODES": value})
    assert re.search(rf"^MNRL_NUM_NODES='{value}' is invalid .* at least 1, or MIN:MAX, as in 2:8$", problem)


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
    (problem,) = problems_of(environ=NEEDED | {f"MNRL_{old}": "2"})
    assert problem == f"MNRL_{old} is not a setting; did you mean MNRL_{new}?"


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
    ended = mnrl_job("train", old, "2")
    assert ended.code == 64
    assert f"'{new}'" in ended.last_line


def test_a_line_break_at_the_end_of_a_secret_does_not_count_and_the_secret_is_not_shown():
    settings, origins = read_settings("train", {}, NEEDED | {"MNRL_GROUP_SECRET": "s3cret-words\n"}, {})
    assert settings.group_secret.get_secret_value() == "s3cret-words"
    assert "s3cret-words" not in documentation.as_table(settings, origins) + repr(settings) + settings.model_dump_json()
    (problem,) = problems_of(environ=NEEDED | {"MNRL_GROUP_SECRET": "'s3cret-words'"})
    assert problem.startswith("MNRL_GROUP_SECRET has literal quotes")
    assert "s3cret-words" not in problem


@pytest.mark.parametrize(("value", "seconds"), [("5s", 5), ("2m", 120), ("1h", 3600)])
def test_a_time_has_a_unit(value, seconds):
    settings, _ = read_settings("train", {}, NEEDED | {"MNRL_NODE_TIMEOUT": value}, {})
    assert settings.node_timeout.seconds == seconds
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    (problem,) = problems_of(environ=NEEDED | {"MNRL_NODE_TIMEOUT": value[:-1]})
    assert re.search(rf"^MNRL_NODE_TIMEOUT='{value[:-1]}' .*\(30s, 2m, 1h\)$", problem)


def test_env_example_docs_schema_and_flags_all_show_every_setting(mnrl_job):
    names = [env_name(field) for field in Settings.model_fields]
    env_example = (ROOT / "env.example").read_text(encoding="utf-8")
    docs = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    shown = {
        form: mnrl_job("settings", "--format", form).stdout for form in ("env", "markdown", "json-schema", "table")
    }
    helped = mnrl_job("train", "--help").stdout
    assert shown["env"] == env_example
    assert shown["markdown"] == docs
    assert list(json.loads(shown["json-schema"])["properties"]) == names
    assert [line.split()[0] for line in shown["table"].splitlines()[1:]] == names
    assert all(f"  {flag_name(field)} " in helped for field in Settings.model_fields)


@pytest.fixture
def schema():
    return json.loads(documentation.as_json_schema())


def test_what_one_would_put_into_the_environment_is_valid_by_the_schema(schema):
    given = NEEDED | {"MNRL_BATCH_SIZE": "32", "MNRL_GRADIENT_CHECKPOINTING": "yes", "MNRL_REPORT_TO": "wandb,mlflow"}
    given |= {"MNRL_TRAIN_DATA": "a.jsonl,b=s3://bucket/b", "MNRL_PRECISION": "bf16", "MNRL_LEAKAGE_POLICY": ""}
    jsonschema.validate(given, schema)
    read_settings("train", {}, given, {})
    defaults = {name: one["default"] for name, one in schema["properties"].items() if "default" in one}
    assert defaults["MNRL_METRIC_CUTOFFS"] == "1,3,5,10,100"
    jsonschema.validate(NEEDED | defaults, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"MNRL_LEAKAGE_POLICY": "maybe"},
        {"MNRL_GRADIENT_CHECKPOINTING": "sometimes"},
        {"MNRL_OUTPUT": ""},
        {"MNRL_OUTPT": "x"},
    ],
)
def test_what_is_refused_as_a_word_or_a_name_is_invalid_by_the_schema(schema, wrong):
    assert problems_of(environ=NEEDED | wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(NEEDED | wrong, schema)


def test_env_example_uncommented_gives_the_defaults(mnrl_job, tmp_path):
    lines = documentation.as_env().splitlines()
    (tmp_path / ".env").write_text("\n".join(line.removeprefix("# ") for line in lines if line.startswith("# MNRL_")))
    values = {
        cwd: [line.split()[:2] for line in mnrl_job("settings", cwd=cwd).stdout.splitlines()]
        for cwd in (ROOT, tmp_path)
    }
    assert values[tmp_path] == values[ROOT]


ANSWERS = pytest.mark.parametrize("arguments", [("--help",), ("settings",), ("train", "--help")])


@ANSWERS
def test_it_answers_without_importing_what_only_a_run_needs(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*arguments)[1:]], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"numpy", "pyarrow", "boto3", "torch", "transformers"}


@ANSWERS
def test_it_answers_in_the_time_of_a_few_imports(arguments):
    """0.2 s here. Of a processor's time and as a ratio, since machines differ and others may work on this one."""

    def seconds(*words):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, stdout=subprocess.DEVNULL, env=clean_environment(), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    imports = [sys.executable, "-c", "import click, pydantic.main"]
    assert any(seconds(*command(*arguments)) < 3 * seconds(*imports) for _ in range(5))


def test_an_unknown_flag_ends_with_the_settings_code(mnrl_job):
    ended = mnrl_job("train", "--batchsize", "8")
    assert ended.code == 64
    assert "--batchsize" in ended.last_line


def test_formats_are_taken_once_in_one_order_and_an_unknown_one_is_refused_with_a_suggestion():
    settings, _ = read_settings("train", {"export": " int8, onnx,int8"}, NEEDED, {})
    assert settings.export == ("onnx", "int8")
    (problem,) = problems_of(environ=NEEDED | {"MNRL_EXPORT": "onnx,openvivo"})
    assert re.search(r"^MNRL_EXPORT='onnx,openvivo' .*'openvivo'; .* openvino\?", problem)


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
        ("MNRL_EXPORT", "onnx"),
        ("MNRL_REPORT_TO", "wandb"),
        ("MNRL_RUN_ID", "r1"),
        ("MNRL_BASE_MODEL", "owner/name"),
        ("MNRL_MASTER_ADDR", "node-0:29500"),
        ("MNRL_EVAL_DATA", "a.json,b.json"),
    ],
)
def test_blanks_and_line_breaks_around_a_value_do_not_count(name, text, blanks):
    plain, _ = read_settings("train", {}, NEEDED | {name: text}, {})
    assert read_settings("train", {}, NEEDED | {name: blanks.format(text)}, {})[0] == plain
    flag = name.removeprefix("MNRL_").lower()
    assert read_settings("train", {flag: blanks.format(text)}, NEEDED, {})[0] == plain


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
def test_quotes_that_came_along_are_told_for_every_kind_of_value(name, value):
    (problem,) = problems_of(environ=NEEDED | {name: value})
    assert problem.startswith(f"{name}={value} has literal quotes")
    assert "docker run --env-file" in problem
    (problem,) = problems_of(environ={n: v for n, v in NEEDED.items() if n != name}, dotenv=NEEDED | {name: value})
    assert problem.startswith(f"{name}={value} in .env has literal quotes")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MNRL_QUERY_PROMPT", 'say "this", "that": '), ("MNRL_OUTPUT", "it's"), ("MNRL_POSITIVE_COLUMN", "'a' or 'b'")],
)
def test_quotes_within_a_text_belong_to_it(name, value):
    settings, _ = read_settings("train", {}, NEEDED | {name: value}, {})
    assert getattr(settings, name.removeprefix("MNRL_").lower()) == value


def test_a_setting_in_lower_case_is_told():
    (problem,) = problems_of(environ=NEEDED | {"mnrl_seed": "7", "mnrl_other": "x"})
    assert re.search(r"^mnrl_seed .* MNRL_SEED\?$", problem)


def kubernetes_links(service, port_name=""):
    """What the kubelet gives every pod in a service's namespace."""
    name = service.upper().replace("-", "_")
    links = {f"{name}_SERVICE_HOST": "10.0.0.7", f"{name}_SERVICE_PORT": "80", f"{name}_PORT": "tcp://10.0.0.7:80"}
    links |= {f"{name}_SERVICE_PORT_{port_name}": "80"} if port_name else {}
    for one in ("80_TCP", "53_UDP"):
        links |= {f"{name}_PORT_{one}": f"{one[3:].lower()}://10.0.0.7:{one[:2]}", f"{name}_PORT_{one}_PROTO": "tcp"}
        links |= {f"{name}_PORT_{one}_PORT": one[:2], f"{name}_PORT_{one}_ADDR": "fd00::7"}
    return links


DOCKER_LINKS = {
    "MNRL_DB_NAME": "/job/mnrl-db",
    "MNRL_DB_PORT": "tcp://172.17.0.5:5432",
    "MNRL_DB_PORT_5432_TCP": "tcp://172.17.0.5:5432",
    "MNRL_DB_PORT_5432_TCP_ADDR": "172.17.0.5",
    "MNRL_DB_ENV_PG_VERSION": "16",
}


@pytest.mark.parametrize(
    "links",
    [
        kubernetes_links("mnrl-job"),
        kubernetes_links("mnrl-job", "HTTP_METRICS"),
        kubernetes_links("mnrl-2"),
        kubernetes_links("mnrl-batch-size", "HTTP"),
        DOCKER_LINKS,
    ],
)
def test_what_a_service_of_our_name_brings_into_the_environment_is_passed_over(links):
    settings, origins = read_settings("train", {}, NEEDED | links, {})
    assert origins.keys() == {"train_data", "output"}
    assert settings.batch_size == 64
    for name, value in links.items():
        if "_ENV_" not in name and not name.endswith("_NAME"):
            read_settings("train", {}, NEEDED | {name: value}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MNRL_JOB_PORT", "8080"),
        ("MNRL_JOB_SERVICE_PORT", "http"),
        ("MNRL_DB_NAME", "/job/db"),
        ("MNRL_DB_ENV_X", "1"),
        ("MNRL_SERVICE", "tcp://10.0.0.7:80"),
    ],
)
def test_a_name_that_only_looks_like_a_service_is_an_error_as_any_other(name, value):
    (problem,) = problems_of(environ=NEEDED | {name: value})
    assert problem.startswith(f"{name} is not a setting")
    assert problems_of(environ=NEEDED, dotenv={"MNRL_JOB_PORT": "tcp://10.0.0.7:80"})


@pytest.mark.parametrize("command", ["train", "check", "evaluate", "verify"])
@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "HTTPS_PROXY",
        "http_proxy",
    ],
)
@pytest.mark.parametrize(
    "value", ["planted\n", "planted\r\n", " planted", "\tplanted", "pla\nnted", "planted\u200b", '"planted"', "\n"]
)
def test_a_credential_with_what_nobody_meant_is_refused_by_name_and_never_shown(command, name, value):
    needed = NEEDED | {"MNRL_EVAL_DATA": "faq.json"}
    (problem,) = problems_of(command, environ=needed | {name: value})
    assert problem.startswith(f"{name} h")
    (in_file,) = problems_of(command, environ=needed, dotenv={name: value})
    assert in_file.startswith(f"{name} in .env h")
    assert "planted" not in problem + in_file
    read_settings("settings", {}, needed | {name: value}, {})
    read_settings(command, {}, needed | {name: "planted"}, {name: value})


@pytest.mark.parametrize(
    "sound",
    [
        {"MLFLOW_TRACKING_PASSWORD": "correct horse battery"},
        {"AWS_SECRET_ACCESS_KEY": "a/b+c=", "AWS_SESSION_TOKEN": ""},
        {"HF_TOKEN_PATH": "/run/token \n", "WANDB_NAME": " my run ", "DB_PASSWORD": "not ours\n"},
    ],
)
def test_other_values_are_left_to_their_programs(sound):
    read_settings("train", {}, NEEDED | sound, {})
