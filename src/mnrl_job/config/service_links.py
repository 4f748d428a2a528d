"""Environment variables that Kubernetes, or Docker links, set for services; their names may start with `MNRL_`."""

import re
from collections.abc import Mapping

# MNRL_JOB_PORT=tcp://10.0.0.7:80
ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+")
HOST = re.compile(r"\w+_SERVICE_HOST|\w+_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|ADDR|PORT)(?:_START|_END)?)?")
PORT = re.compile(r"\w+_SERVICE_PORT(?:_[A-Z0-9_]+)?")
# Docker also sets the name of the linked container, and its environment.
LINKED = re.compile(r"(\w+?)(?:_NAME|_ENV_\w+)")


def is_address(value: str) -> bool:
    """Whether a value is the address of a service instead of a port number."""
    return bool(ADDRESS.fullmatch(value.strip()))


def is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Whether an environment variable was set for a service."""
    value = environ[name]
    linked = LINKED.fullmatch(name)
    return (
        (name.endswith("_PORT") and is_address(value))
        or bool(HOST.fullmatch(name))
        or (bool(PORT.fullmatch(name)) and value.isdecimal())
        or bool(linked and is_address(environ.get(f"{linked[1]}_PORT", "")))
    )
