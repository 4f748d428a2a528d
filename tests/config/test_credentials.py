"""Credentials with invalid values, which are reported by name and never shown."""

import pytest

from mnrl_job.config.reader import read_settings
from tests.config.reading import REQUIRED, find_problems


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
def test_an_invalid_credential_is_refused_by_name_and_never_shown(command, name, value):
    environ = REQUIRED | {"MNRL_EVAL_DATA": "faq.json"}
    (problem,) = find_problems(command, environ=environ | {name: value})
    assert problem.startswith(f"{name} h")
    (dotenv_problem,) = find_problems(command, environ=environ, dotenv={name: value})
    assert dotenv_problem.startswith(f"{name} in .env h")
    assert "planted" not in problem + dotenv_problem
    read_settings("settings", {}, environ | {name: value}, {})
    read_settings(command, {}, environ | {name: "planted"}, {name: value})


@pytest.mark.parametrize(
    "environ",
    [
        {"MLFLOW_TRACKING_PASSWORD": "correct horse battery"},
        {"AWS_SECRET_ACCESS_KEY": "a/b+c=", "AWS_SESSION_TOKEN": ""},
        {"HF_TOKEN_PATH": "/run/token \n", "WANDB_NAME": " my run ", "DB_PASSWORD": "not ours\n"},
    ],
)
def test_other_variables_are_not_checked(environ):
    read_settings("train", {}, REQUIRED | environ, {})
