"""Redact secrets, such as values of environment variables, from everything that is shown or written."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from mnrl_job.system.secret_patterns import MASK, Secret, compile_secret

# Matches HF_TOKEN, AWS_SECRET_ACCESS_KEY, WANDB_API_KEY; not TOKENIZERS_PARALLELISM, PWD, or names of files.
SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|PASS|PAT|(?:API)?KEY|CREDENTIALS?|AUTHORIZATION|DSN"
    r"|CONNECTION_STRING)(?:_|$)|_(?:PWD|AUTH)$"
)
LOCATION_NAME = re.compile(r"(?i)_(?:FILE|PATH|DIR|URI|URL|SOCK)$")
MIN_SECRET_LENGTH = 6
IN_URL = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")
IN_QUERY = re.compile(
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|token|sig|password)=)[^&\s'\"]+"
)
BEARER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+)[^\s'\"]+")

# A header value that a library rejects is likely a credential, wherever it came from; so are JSON Web Tokens and tokens
# of the Hub.
IN_HEADER = re.compile(r"""(?i)(header value:?\s*)b?(['"])(?:\\.|(?!\2).)*\2""", re.DOTALL)
TOKEN = re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|\bhf_[A-Za-z0-9]{30,}")


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials in URLs, signatures, and values of secret environment variables."""
    return _mask(text, _longest_first(tuple(environ.items())))


def redacted(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Redact every string of a JSON value; numbers and keys stay as they are.

    Redacting the dumped text instead could mask numbers and break the syntax.
    """
    secrets = _longest_first(tuple(environ.items()))

    def walk(node: Any) -> Any:
        if isinstance(node, str):
            return _mask(node, secrets)
        if isinstance(node, Mapping):
            return {key: walk(child) for key, child in node.items()}
        return [walk(child) for child in node] if isinstance(node, list | tuple) else node

    return walk(value)


def is_secret(name: str) -> bool:
    """Whether the value of a variable of this name is a secret, rather than its location."""
    return bool(SECRET_NAME.search(name)) and not LOCATION_NAME.search(name)


def _mask(text: str, secrets: tuple[Secret, ...]) -> str:
    for secret in secrets:
        text = secret.mask(text)
    text = IN_URL.sub(MASK, text)
    text = IN_QUERY.sub(rf"\1{MASK}", text)
    text = BEARER.sub(rf"\1{MASK}", text)
    text = IN_HEADER.sub(rf"\1{MASK}", text)
    return TOKEN.sub(MASK, text)


@lru_cache(maxsize=8)
def _longest_first(environ: tuple[tuple[str, str], ...]) -> tuple[Secret, ...]:
    values = {part for name, value in environ for part in _secrets(name, value) if len(part) >= MIN_SECRET_LENGTH}
    return tuple(map(compile_secret, sorted(values, key=len, reverse=True)))


def _secrets(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable: its value and each line of it, or the passwords in its URLs."""
    if is_secret(name):
        yield from (value.strip(), *map(str.strip, value.splitlines()))
    for userinfo in IN_URL.findall(value):
        password = userinfo.partition(":")[2]
        yield from (password, unquote(password))
