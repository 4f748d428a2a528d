"""An S3 client with the standard AWS configuration."""

import os
from typing import TYPE_CHECKING, Any, cast

import boto3.session
from botocore.config import Config

from mnrl_job import __version__
from mnrl_job.storage.s3_credentials import Backoff, await_credentials
from mnrl_job.system.threads import THREADS

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONNECT_SECONDS, READ_SECONDS = 10, 60


def make_client(addressing_style: str, attempts: int, backoff: Backoff) -> "S3Client":
    """A client with the current credentials; `attempts` are per request, also to the credential provider.

    Raises:
        BotoCoreError: the configuration is invalid, or there are no credentials.
        ValueError: the region or the endpoint is invalid.
    """
    # Uploads are read back and compared; the default CRC32 trailers break several S3-compatible stores.
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
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": cast("Any", addressing_style)},
        **cast("Any", checksums),
    )
    # Other SDKs read AWS_REGION, and EKS sets it; boto3 alone does not.
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
    await_credentials(session, attempts, backoff)
    client = session.client("s3", config=config)
    # Long transfers outlive their first credentials.
    client.meta.events.register("before-sign.s3", lambda **_: await_credentials(session, attempts, backoff))
    if os.environ.get("AWS_REQUEST_PAYER") == "requester":
        client.meta.events.register("before-call.s3", _accept_charges)
    if not client.meta.endpoint_url.startswith(("http://", "https://")):
        raise ValueError(f"the endpoint {client.meta.endpoint_url} does not start with http:// or https://")
    return client


def _accept_charges(params: dict[str, Any], **_: Any) -> None:
    """Accept the charges of requester-pays buckets."""
    params["headers"]["x-amz-request-payer"] = "requester"
