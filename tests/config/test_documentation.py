"""The settings in `--help`, `env.example`, the docs and the JSON schema, and how fast they are printed."""

import json
import resource
import subprocess
import sys

import jsonschema
import pytest

from mnrl_job.config import documentation
from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import Settings, env_name, flag_name
from tests.config.reading import REQUIRED, find_problems
from tests.program import ROOT, clean_environment, command


def test_every_setting_is_in_env_example_docs_schema_and_help(mnrl_job):
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
    assert [line.split()[0] for line in shown["table"].splitlines() if line[0] != " "] == names
    assert all(f"  {flag_name(field)} " in helped for field in Settings.model_fields)


@pytest.fixture
def schema():
    return json.loads(documentation.as_json_schema())


def test_a_valid_environment_satisfies_the_schema(schema):
    given = REQUIRED | {"MNRL_BATCH_SIZE": "32", "MNRL_GRADIENT_CHECKPOINTING": "yes", "MNRL_REPORT_TO": "wandb,mlflow"}
    given |= {"MNRL_TRAIN_DATA": "a.jsonl,b=s3://bucket/b", "MNRL_PRECISION": "bf16", "MNRL_LEAKAGE_POLICY": ""}
    jsonschema.validate(given, schema)
    read_settings("train", {}, given, {})
    defaults = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
    assert defaults["MNRL_METRIC_CUTOFFS"] == "1,3,5,10,100"
    jsonschema.validate(REQUIRED | defaults, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"MNRL_LEAKAGE_POLICY": "maybe"},
        {"MNRL_GRADIENT_CHECKPOINTING": "sometimes"},
        {"MNRL_OUTPUT": ""},
        {"MNRL_OUTPT": "x"},
    ],
)
def test_an_invalid_environment_violates_the_schema(schema, wrong):
    assert find_problems(environ=REQUIRED | wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(REQUIRED | wrong, schema)


def test_env_example_uncommented_equals_the_defaults(mnrl_job, tmp_path):
    lines = documentation.as_env().splitlines()
    (tmp_path / ".env").write_text("\n".join(line.removeprefix("# ") for line in lines if line.startswith("# MNRL_")))
    values = {
        cwd: [line.split()[:2] for line in mnrl_job("settings", cwd=cwd).stdout.splitlines()]
        for cwd in (ROOT, tmp_path)
    }
    assert values[tmp_path] == values[ROOT]


QUICK_COMMANDS = pytest.mark.parametrize("arguments", [("--help",), ("settings",), ("train", "--help")])


@QUICK_COMMANDS
def test_help_and_settings_do_not_import_heavy_libraries(arguments):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*arguments)[1:]], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"numpy", "pyarrow", "boto3", "torch", "transformers"}


@QUICK_COMMANDS
def test_help_and_settings_take_little_more_time_than_their_imports(arguments):
    """0.2 s here; measured in CPU time, relative to the imports, to be independent of the machine and its load."""

    def seconds(*words):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, stdout=subprocess.DEVNULL, env=clean_environment(), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    imports = [sys.executable, "-c", "import click, pydantic.main"]
    assert any(seconds(*command(*arguments)) < 3 * seconds(*imports) for _ in range(5))
