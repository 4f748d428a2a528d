"""Which of our errors a failure of S3 is. What is denied, what is missing and what may pass are three things."""

import re

from botocore import exceptions as boto
from botocore.exceptions import ClientError
from urllib3.exceptions import HTTPError

from mnrl_job.errors import DeniedError, JobError, MissingError, SettingsError, StorageError

# Answers of the network or the server that another try may change.
TRANSIENT: tuple[type[Exception], ...] = (boto.HTTPClientError, HTTPError, ConnectionError, TimeoutError)
MISSING = {"NoSuchBucket", "NoSuchKey", "NotFound", "404"}
SETTINGS = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "InvalidBucketName"}
# S3 answers 400, not 403, to these.
DENIED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException", "InvalidIdentityToken"}
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
    boto.NoAuthTokenError,
)


def code_of(error: Exception) -> str:
    """The error code S3 gave, `""` where it gave none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: Exception) -> int:
    """The HTTP status, 0 where there was no answer."""
    answer = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(answer.get("HTTPStatusCode") or 0)


def is_missing(error: Exception) -> bool:
    """Whether S3 says that the object is not there. A missing bucket is another matter."""
    return code_of(error) in MISSING - {"NoSuchBucket"} and status_of(error) == 404


def is_taken(error: Exception) -> bool:
    """Whether a conditional write found that somebody else was first."""
    return status_of(error) == 412 or code_of(error) == "PreconditionFailed"


def explain(error: Exception, label: str) -> JobError:
    """The error to tell the user: what, where, what would help."""
    code, status = code_of(error), status_of(error)
    reason = _reason(error)
    if code == "RequestTimeTooSkewed":
        return DeniedError(f"{label}: {reason}; set this machine's clock")
    if "header value" in reason:
        return DeniedError(
            f"{label}: {reason}; a credential or the region holds a line break, wherever it came from: write it anew"
        )
    if isinstance(error, NO_CREDENTIALS):
        return DeniedError(
            f"{label}: {reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role"
        )
    if status in (401, 403) or code in DENIED:
        return DeniedError(
            f"{label}: access denied ({reason}); grant s3:ListBucket, s3:GetObject, and for the output s3:PutObject, "
            "s3:DeleteObject and s3:AbortMultipartUpload, or mend the credentials"
        )
    if code in SETTINGS or isinstance(error, boto.ParamValidationError | boto.NoRegionError | boto.ProfileNotFound):
        return SettingsError(f"{label}: {reason}; check bucket name, AWS_REGION, AWS_PROFILE and AWS_ENDPOINT_URL")
    if code in MISSING or (status == 404 and code != "NoSuchUpload"):
        return MissingError(f"{label}: does not exist ({reason})")
    return StorageError(f"{label}: {reason}; the storage did not answer as it should, start again when it does")


def _reason(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    told = re.match(r"An error occurred \((.+?)\) when calling the (\w+) operation(?: \(.*?\))?: ?(.*)", text)
    return f"{told[2]}: {told[1]}, {told[3]}".rstrip(", ") if told else text.rstrip(".")
