"""A client of S3 with the standard AWS configuration, and what else has to be said to boto3."""

import os
from typing import TYPE_CHECKING, Any, cast

import boto3.session
from botocore.config import Config

from mnrl_job import __version__
from mnrl_job.storage.s3_credentials import Pause, await_credentials, before_signing
from mnrl_job.system.threads import THREADS

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONNECT_SECONDS, READ_SECONDS = 10, 60


def make_client(addressing_style: str, tries: int, pause: Pause) -> "S3Client":
    """Make one that has the credentials of this moment.

    Args:
        addressing_style: `auto`, `path` or `virtual`.
        tries: how often a request is tried, and whoever hands out credentials is asked.
        pause: seconds to wait after the first, second … time that they were asked.

    Raises:
        BotoCoreError: the configuration is not usable, or there are no credentials.
        ValueError: the region or the endpoint is not usable.
    """
    # Bytes are verified from end to end here; the default CRC32 trailers break several S3-likes.
    checksums = {
        name: "when_required"
        for name in ("request_checksum_calculation", "response_checksum_validation")
        if f"AWS_{name.upper()}" not in os.environ
    }
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=THREADS + 2,
        user_agent=f"mnrl-job/{__version__}",
        retries={"mode": "standard", "total_max_attempts": tries},
        s3={"addressing_style": cast("Any", addressing_style)},
        **cast("Any", checksums),
    )
    # Other SDKs read AWS_REGION, and EKS sets it; boto3 alone does not.
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
    await_credentials(session, tries, pause)
    client = session.client("s3", config=config)
    client.meta.events.register("before-sign.s3", before_signing(session, tries, pause))
    if os.environ.get("AWS_REQUEST_PAYER") == "requester":
        client.meta.events.register("before-call.s3", _pay)
    if not client.meta.endpoint_url.startswith(("http://", "https://")):
        raise ValueError(f"the endpoint {client.meta.endpoint_url} does not begin with http:// or https://")
    return client


def _pay(params: dict[str, Any], **_: Any) -> None:
    """Accept the costs of a request to a bucket whose owner leaves them to the requester."""
    params["headers"]["x-amz-request-payer"] = "requester"
