"""Credentials, and what goes with them, that cannot work as they stand, told by name before anything uses them."""

import re
from collections.abc import Iterator, Mapping

from mnrl_job.system.secrets import is_secret

# Of the services that a run speaks to; other variables are other programs' matter.
FAMILIES = ("AWS_", "HF_", "HUGGING_FACE_", "WANDB_", "MLFLOW_")
# What says where these are, and by whose leave; libraries take it as it is, or call it a storage that is away.
WHEREABOUTS = re.compile(
    r"AWS_(?:(?:DEFAULT_)?REGION|PROFILE|ROLE_ARN|CA_BUNDLE|ENDPOINT_URL\w*|\w+_FILE)|(?i:https?_proxy|all_proxy)"
)
QUOTES = "'\""


def faulty_credentials(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each variable that nobody can have meant as it is, and why. Never its value."""
    for name, value in sorted(variables.items()):
        ours = (name.startswith(FAMILIES) and is_secret(name)) or WHEREABOUTS.fullmatch(name)
        if ours and (fault := _fault(value)):
            yield name, fault


def _fault(value: str) -> str:
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
