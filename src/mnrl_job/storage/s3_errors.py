"""Translate S3 errors into JobErrors: denied, missing, transient and permanent failures are distinct."""

import re

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from mnrl_job.errors import DeniedError, EnvironmentFailure, JobError, NotFound, SettingsError, StorageError
from mnrl_job.storage.s3_credentials import is_unavailable

# Network and server errors that are worth a retry.
TRANSIENT: tuple[type[Exception], ...] = (boto.HTTPClientError, HTTPError, ConnectionError, TimeoutError)
# Everything boto3 raises, after its retries.
RAISED: tuple[type[Exception], ...] = (BotoCoreError, ClientError, ResponseParserError, HTTPError)
# botocore errors about an incomplete response; the others are about the request.
NO_RESPONSE = (
    *(boto.HTTPClientError, boto.ConnectionError, boto.ChecksumError, boto.FlexibleChecksumError),
    *(boto.IncompleteReadError, boto.MetadataRetrievalError),
)
# Transient, although the HTTP status says otherwise.
TRANSIENT_CODES = {
    *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "InvalidPart", "NoSuchUpload"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
    *("IDPCommunicationError", "BandwidthLimitExceeded", "ClientDisconnected"),
    *("OperationAborted", "ConditionalRequestConflict"),
}
TRANSIENT_STATUS = {408, 409, 416, 425, 429, 499}
# Permanent errors among the 5xx.
PERMANENT_STATUS = {501, 505}
MISSING = {"NoSuchBucket", "NoSuchKey", "NotFound", "404"}
# S3 returns 400, not 403, for some of these.
WRONG_CREDENTIALS = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException", "InvalidIdentityToken"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidClientTokenId"),
    "UnrecognizedClientException",
}
DISABLED = {"AccountProblem", "AllAccessDisabled", "NotSignedUp", "InvalidPayer", "UserSuspended"}
FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
PERMANENT = {
    "MethodNotAllowed": "the storage does not support this here; use another bucket or store, or a mount",
    "NotImplemented": "the storage does not support this; use another store, or a mount",
    "KeyTooLongError": "shorten the prefix or the names",
    "EntityTooLarge": "the file is too large for this storage; use another store, or a mount",
    "InvalidStorageClass": "use another storage class",
    "400": "if it is encrypted with a customer-provided key, copy it to where S3 can decrypt it",
}
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
    boto.NoAuthTokenError,
    boto.LoginError,
)
# Another conditional write is in progress.
WRITE_CONFLICT = {"ConditionalRequestConflict", "OperationAborted"}
# The body was corrupted in transit; some S3-compatible stores then discard the whole multipart upload.
CORRUPTED = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "NoSuchUpload"}


def code_of(error: Exception) -> str:
    """The S3 error code, `""` if there is none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: Exception) -> int:
    """The HTTP status, 0 if there was no response."""
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(metadata.get("HTTPStatusCode") or 0)


def is_missing(error: Exception) -> bool:
    """Whether the object does not exist; not so for a missing bucket."""
    return code_of(error) in MISSING - {"NoSuchBucket"} and status_of(error) == 404


def precondition_failed(error: Exception) -> bool:
    """Whether the condition of a request (If-Match, If-None-Match) did not hold."""
    return status_of(error) == 412 or code_of(error) == "PreconditionFailed"


def explain(error: Exception, label: str) -> JobError:
    """The JobError for the user: what failed, where, and the remedy."""
    code, status, reason = code_of(error), status_of(error), _reason(error)
    if is_unavailable(error):
        return StorageError(
            f"{label}: {reason}; the credential provider is unavailable; start again when it responds, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code in FULL or status == 507:
        return EnvironmentFailure(f"{label}: the storage is full ({reason}); free space there or raise its quota")
    if code == "InvalidObjectState":
        return NotFound(
            f"{label}: is archived and cannot be read now ({reason}); restore it (aws s3api restore-object), or "
            "copy it to a storage class with immediate access"
        )
    if _is_denied_message(error, code, status):
        return DeniedError(f"{label}: {_denied_message(error, code, reason)}")
    if code in MISSING or (status == 404 and code not in TRANSIENT_CODES):
        return NotFound(f"{label}: does not exist ({reason})")
    if _is_permanent(error, code, status):
        return SettingsError(f"{label}: refused, a retry will not help ({reason}); {_remedy(error, code)}")
    return StorageError(f"{label}: {reason}; unexpected response of the storage; start again when it has recovered")


def _is_denied_message(error: Exception, code: str, status: int) -> bool:
    by_credentials = isinstance(error, NO_CREDENTIALS) or code in WRONG_CREDENTIALS or _is_invalid_header(error)
    return by_credentials or status in (401, 403) or _is_kms_error(code)


def _is_invalid_header(error: Exception) -> bool:
    """Whether a value, such as a credential, is not allowed in an HTTP header."""
    return "header value" in str(error)


def _is_kms_error(code: str) -> bool:
    return code.startswith("KMS.")


def _denied_message(error: Exception, code: str, reason: str) -> str:
    if isinstance(error, NO_CREDENTIALS):
        return f"{reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role"
    if _is_invalid_header(error):
        return f"{reason}; a credential or the region contains a line break; set it again without one"
    if code == "RequestTimeTooSkewed":
        return f"{reason}; synchronize the clock of this machine"
    message = f"access denied ({reason})"
    if _is_kms_error(code):
        return f"{message}; enable the KMS key, and grant kms:Decrypt and kms:GenerateDataKey on it"
    if code in WRONG_CREDENTIALS:
        variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN"
        return f"{message}; check the credentials ({variables}, the role)"
    if code in DISABLED:
        return f"{message}; the account or bucket is disabled; only its owner or the provider can enable it"
    return (
        f"{message}; grant s3:ListBucket, s3:GetObject, and for the output s3:PutObject, s3:DeleteObject and "
        "s3:AbortMultipartUpload, or check the credentials; for requester-pays buckets set AWS_REQUEST_PAYER=requester"
    )


def _is_permanent(error: Exception, code: str, status: int) -> bool:
    if isinstance(error, BotoCoreError | ResponseParserError):
        return _is_certificate_error(error) or not isinstance(error, NO_RESPONSE)
    if code in TRANSIENT_CODES or status in TRANSIENT_STATUS:
        return False
    return 300 <= status < 500 or status in PERMANENT_STATUS or code in PERMANENT


def _is_certificate_error(error: Exception) -> bool:
    return isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _remedy(error: Exception, code: str) -> str:
    if _is_certificate_error(error):
        return "set AWS_CA_BUNDLE to the CA certificates of the server"
    if isinstance(error, boto.MissingDependencyException):
        return "use a bucket or a single-region access point instead"
    usual = "check bucket name, AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL and MNRL_S3_ADDRESSING_STYLE"
    return PERMANENT.get(code, usual)


def _reason(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    match = re.match(r"An error occurred \((.+?)\) when calling the (\w+) operation(?: \(.*?\))?: ?(.*)", text)
    return f"{match[2]}: {match[1]}, {match[3]}".rstrip(", ") if match else text.rstrip(".")
