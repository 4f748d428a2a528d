"""Credentials from a provider: a container agent, or the instance metadata service of EC2.

Either may be briefly unavailable, which boto3 reports as refused or missing credentials.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from boto3.session import Session
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError

# How botocore reports a response other than 200 of an agent.
REFUSED = re.compile(r"non 200 response \(?(4\d\d)")
TRANSIENT_STATUS = {"408", "425", "429"}
BOARD_VENDOR = Path("/sys/class/dmi/id/board_vendor")

Backoff = Callable[[int], float]


def has_metadata_service() -> bool:
    """Whether an instance metadata service may provide credentials: on EC2, or if an endpoint is configured."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    with suppress(OSError):
        if BOARD_VENDOR.read_text(encoding="utf-8").strip() == "Amazon EC2":
            return True
    return bool(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"))


def is_unavailable(error: Exception) -> bool:
    """Whether credentials are missing because their provider does not respond, rather than refuses."""
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        refusal = REFUSED.search(str(error))
        return refusal is None or refusal[1] in TRANSIENT_STATUS
    return isinstance(error, boto.NoCredentialsError) and has_metadata_service()


def await_credentials(session: Session, attempts: int, backoff: Backoff) -> None:
    """Wait until there are valid credentials, or waiting is pointless; `backoff` gives the seconds after each attempt.

    The last of the `attempts` is the request that needs the credentials, which reports the failure.
    """
    for attempt in range(1, attempts):
        try:
            if (credentials := session.get_credentials()) is not None:
                credentials.get_frozen_credentials()
                return
            if not has_metadata_service():
                return
        except BotoCoreError as error:
            if not is_unavailable(error):
                return
        time.sleep(backoff(attempt))
