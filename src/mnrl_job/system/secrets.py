"""No secret leaves: what the environment holds in confidence is starred out of everything that is shown or written."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from mnrl_job.system.secret_renderings import STARS, Secret, secret

# HF_TOKEN, AWS_SECRET_ACCESS_KEY, WANDB_API_KEY; not TOKENIZERS_PARALLELISM, PWD, nor what only names a file.
SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|PASS|PAT|(?:API)?KEY|CREDENTIALS?|AUTHORIZATION|DSN"
    r"|CONNECTION_STRING)(?:_|$)|_(?:PWD|AUTH)$"
)
NAMES_A_PLACE = re.compile(r"(?i)_(?:FILE|PATH|DIR|URI|URL|SOCK)$")
SHORTEST_SECRET = 6
IN_URL = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")
IN_QUERY = re.compile(
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|token|sig|password)=)[^&\s'\"]+"
)
BEARER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+)[^\s'\"]+")

# A header that a library refuses is mostly one of authorization, wherever its value came from; so is what looks like a
# JSON Web Token, or a token of the Hub.
IN_HEADER = re.compile(r"""(?i)(header value:?\s*)b?(['"])(?:\\.|(?!\2).)*\2""", re.DOTALL)
TOKEN = re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|\bhf_[A-Za-z0-9]{30,}")


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials in URLs, signatures, or values of secret environment variables."""
    return _starred(text, _longest_first(tuple(environ.items())))


def redacted(content: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """What is to be dumped as JSON, each of its texts as `redact` gives it. Numbers and keys stay, whatever they are.

    To be done before dumping: stars are no number, and a secret may hold what JSON is made of.
    """
    secrets = _longest_first(tuple(environ.items()))

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _starred(value, secrets)
        if isinstance(value, Mapping):
            return {key: walk(one) for key, one in value.items()}
        return [walk(one) for one in value] if isinstance(value, list | tuple) else value

    return walk(content)


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret itself."""
    return bool(SECRET_NAME.search(name)) and not NAMES_A_PLACE.search(name)


def _starred(text: str, secrets: tuple[Secret, ...]) -> str:
    for one in secrets:
        text = one.starred(text)
    text = IN_URL.sub(STARS, text)
    text = IN_QUERY.sub(rf"\1{STARS}", text)
    text = BEARER.sub(rf"\1{STARS}", text)
    text = IN_HEADER.sub(rf"\1{STARS}", text)
    return TOKEN.sub(STARS, text)


@lru_cache(maxsize=8)
def _longest_first(environ: tuple[tuple[str, str], ...]) -> tuple[Secret, ...]:
    values = {part for name, value in environ for part in _secrets(name, value) if len(part) >= SHORTEST_SECRET}
    return tuple(map(secret, sorted(values, key=len, reverse=True)))


def _secrets(name: str, value: str) -> Iterator[str]:
    """What a variable holds in confidence: all of it, also each of its lines, or the passwords of its URLs."""
    if is_secret(name):
        yield from (value.strip(), *map(str.strip, value.splitlines()))
    for found in IN_URL.findall(value):
        password = found.partition(":")[2]
        yield from (password, unquote(password))
