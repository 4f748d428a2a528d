"""Credentials that somebody hands out: an agent beside the pod, or the metadata service of a machine on EC2.

Either may be away for a moment, which boto3 takes for credentials that are refused or were never there.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from boto3.session import Session
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError

# How an agent's answer that is not 200 is told.
REFUSED = re.compile(r"non 200 response \(?(4\d\d)")
MAY_PASS = {"408", "425", "429"}
BOARD_VENDOR = Path("/sys/class/dmi/id/board_vendor")

Pause = Callable[[int], float]


def has_metadata_service() -> bool:
    """Whether this machine has a service that could hand out credentials: on EC2, or where one is named."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    with suppress(OSError):
        if BOARD_VENDOR.read_text(encoding="utf-8").strip() == "Amazon EC2":
            return True
    return bool(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"))


def is_away(error: Exception) -> bool:
    """Whether credentials are lacking since whoever hands them out gives no answer, rather than a refusal."""
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        refused = REFUSED.search(str(error))
        return refused is None or refused[1] in MAY_PASS
    return isinstance(error, boto.NoCredentialsError) and has_metadata_service()


def await_credentials(session: Session, tries: int, pause: Pause) -> None:
    """Return when there are credentials, valid at this moment, or there is no use in waiting for any.

    Args:
        session: it finds them, and renews what expires.
        tries: how often it is asked; the last is left to whoever needs them, to fail as it may.
        pause: seconds to wait after the first, second … try.
    """
    for attempt in range(1, tries):
        try:
            if (credentials := session.get_credentials()) is not None:
                credentials.get_frozen_credentials()
                return
            if not has_metadata_service():
                return
        except BotoCoreError as error:
            if not is_away(error):
                return
        time.sleep(pause(attempt))


def before_signing(session: Session, tries: int, pause: Pause) -> Callable[..., None]:
    """What boto3 calls before it signs a request: long transfers outlive the credentials they began with."""

    def wait(**_: Any) -> None:
        await_credentials(session, tries, pause)

    return wait
