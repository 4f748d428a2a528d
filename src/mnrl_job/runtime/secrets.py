"""No secret leaves: what the environment holds in confidence is starred out of everything that is shown or written."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

STARS = "***"
# HF_TOKEN, AWS_SECRET_ACCESS_KEY, WANDB_API_KEY; not TOKENIZERS_PARALLELISM, nor what only names a file.
SECRET_NAME = re.compile(r"(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|KEY|CREDENTIALS?|AUTHORIZATION)(?:_|$)")
NAMES_A_PLACE = ("_FILE", "_PATH", "_DIR", "_URI", "_URL")
SHORTEST_SECRET = 6
IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
IN_QUERY = re.compile(
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|token|sig|password)=)[^&\s'\"]+"
)
BEARER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+)[^\s'\"]+")


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials in URLs, signatures, or values of secret environment variables."""
    return _starred(text, _longest_first(environ))


def redacted(content: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """What is to be dumped as JSON, each of its texts as `redact` gives it. Numbers and keys stay, whatever they are.

    To be done before dumping: afterwards a secret with a quote stands there escaped, and stars are no number.
    """
    secrets = _longest_first(environ)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _starred(value, secrets)
        if isinstance(value, Mapping):
            return {key: walk(one) for key, one in value.items()}
        return [walk(one) for one in value] if isinstance(value, list | tuple) else value

    return walk(content)


def _starred(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, STARS)
    text = IN_URL.sub(STARS, text)
    text = IN_QUERY.sub(rf"\1{STARS}", text)
    return BEARER.sub(rf"\1{STARS}", text)


def _longest_first(environ: Mapping[str, str]) -> list[str]:
    return sorted(set(_secrets(environ)), key=len, reverse=True)


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if SECRET_NAME.search(name) and not name.endswith(NAMES_A_PLACE) and len(value) >= SHORTEST_SECRET:
            yield value
        for found in IN_URL.findall(value):
            yield from (part for part in found.split(":")[1:] if len(part) >= SHORTEST_SECRET)
