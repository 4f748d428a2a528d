"""Credentials and related variables with invalid values, reported by name before anything uses them."""

import re
from collections.abc import Iterator, Mapping

from mnrl_job.system.secrets import is_secret

# Of the services that a run uses.
PREFIXES = ("AWS_", "HF_", "HUGGING_FACE_", "WANDB_", "MLFLOW_")
# Addresses and identities; libraries do not validate them, or report an invalid one as unavailable storage.
CONNECTION_VARIABLES = re.compile(
    r"AWS_(?:(?:DEFAULT_)?REGION|PROFILE|ROLE_ARN|CA_BUNDLE|ENDPOINT_URL\w*|\w+_FILE)|(?i:https?_proxy|all_proxy)"
)
QUOTES = "'\""


def invalid_credentials(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each invalid variable, and why. Never its value."""
    for name, value in sorted(variables.items()):
        is_checked = (name.startswith(PREFIXES) and is_secret(name)) or CONNECTION_VARIABLES.fullmatch(name)
        if is_checked and (problem := _problem(value)):
            yield name, problem


def _problem(value: str) -> str:
    if value != value.strip():
        return (
            "has leading or trailing whitespace, as Kubernetes Secrets created with `echo` do; create it with "
            "`printf %s` or `echo -n`"
        )
    if not value.isprintable():
        return "has a line break or another unprintable character; copy it again, on one line"
    if len(value) > 1 and value[0] in QUOTES and value[0] == value[-1]:
        return "has literal quotes, which `docker run --env-file` keeps; remove them"
    return ""
