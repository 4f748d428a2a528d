"""Signed JSON messages in torch's store: who does not know the secret can write there, but nobody listens to that."""

import hmac
import json
import os
from typing import Any

import torch.distributed as dist

from mnrl_job.system.json_text import dumps

Message = dict[str, Any]


class SignatureError(ValueError):
    """A message that no node of this run signed."""


class SignedStore:
    """Messages of the nodes of one run.

    The signature is an HMAC-SHA256 (RFC 2104) over run id, key and message, so that no message can be moved to another
    key or another run. It does not hide what is said.

    Args:
        store: where messages are kept.
        run_id: names the run.
        secret: shared by its nodes; empty tells apart runs only, not strangers.
    """

    def __init__(self, store: dist.Store, run_id: str, secret: str) -> None:
        self._store = store
        self._run_id = run_id
        self._secret = secret.encode()

    def write(self, key: str, message: Message) -> None:
        """Replace the message at a key."""
        text = dumps(message)
        self._store.set(key, f"{self._sign(key, text)}\n{text}")

    def read(self, key: str) -> Message | None:
        """The message at a key; None where there is none yet.

        Raises:
            SignatureError: it was not signed by a node of this run.
        """
        if not self._store.check([key]):
            return None
        signature, _, text = self._store.get(key).decode(errors="replace").partition("\n")
        if not hmac.compare_digest(signature.encode(), self._sign(key, text).encode()):
            raise SignatureError(f"the message {key!r} is not signed by a node of this run")
        message: Message = json.loads(text)
        return message

    def _sign(self, key: str, text: str) -> str:
        return hmac.new(self._secret, "\n".join((self._run_id, key, text)).encode(), "sha256").hexdigest()


def new_incarnation() -> str:
    """Names one incarnation of a process, so that what was signed in an earlier one means nothing now."""
    return os.urandom(16).hex()
