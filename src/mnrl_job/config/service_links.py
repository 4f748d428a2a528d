"""Variables that Kubernetes, or Docker's links, make of the name of a service beside us. Nobody meant them for us."""

import re
from collections.abc import Mapping

# MNRL_JOB_PORT=tcp://10.0.0.7:80
ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+")
HOST = re.compile(r"\w+_SERVICE_HOST|\w+_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|ADDR|PORT)(?:_START|_END)?)?")
PORT = re.compile(r"\w+_SERVICE_PORT(?:_[A-Z0-9_]+)?")
# What Docker adds: the name of the linked container, and its environment.
LINKED = re.compile(r"(\w+?)(?:_NAME|_ENV_\w+)")


def is_address(value: str) -> bool:
    """Whether a value is the address of a service, where a setting would have a number."""
    return bool(ADDRESS.fullmatch(value.strip()))


def is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable of the environment tells of a service."""
    value = environ[name]
    linked = LINKED.fullmatch(name)
    return (
        (name.endswith("_PORT") and is_address(value))
        or bool(HOST.fullmatch(name))
        or (bool(PORT.fullmatch(name)) and value.isdecimal())
        or bool(linked and is_address(environ.get(f"{linked[1]}_PORT", "")))
    )
