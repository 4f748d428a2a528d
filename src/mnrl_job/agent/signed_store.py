"""Signed JSON messages in torch's store: unsigned ones can be written by anyone, and are ignored."""

import hmac
import json
from typing import Any

import torch.distributed as dist

from mnrl_job.system.json_text import dumps

Message = dict[str, Any]


class SignatureError(ValueError):
    """A message was not signed by a node of this run."""


class SignedStore:
    """Messages between the nodes of one run.

    The signature is an HMAC-SHA256 (RFC 2104) over run id, key and message, so that a message cannot be moved to
    another key or another run. Without a secret only messages of other runs are detected. Messages are not encrypted.
    """

    def __init__(self, store: dist.Store, run_id: str, secret: str) -> None:
        self._store = store
        self._run_id = run_id
        self._secret = secret.encode()

    def write(self, key: str, message: Message) -> None:
        text = dumps(message)
        self._store.set(key, f"{self._sign(key, text)}\n{text}")

    def read(self, key: str) -> Message | None:
        """The message at a key; None if there is none yet.

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
