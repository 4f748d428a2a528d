"""Which of our errors a failure of S3 is. What is denied, what is missing and what may pass are three things."""

import re

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from mnrl_job.errors import DeniedError, EnvironmentFailure, JobError, NotFound, SettingsError, StorageError
from mnrl_job.storage.s3_credentials import is_away

# Answers of the network or the server that another try may change.
TRANSIENT: tuple[type[Exception], ...] = (boto.HTTPClientError, HTTPError, ConnectionError, TimeoutError)
# All that boto raises, after its retries.
RAISED: tuple[type[Exception], ...] = (BotoCoreError, ClientError, ResponseParserError, HTTPError)
# Those of boto's own errors that say that there was no whole answer; its others are about what was asked.
UNANSWERED = (
    *(boto.HTTPClientError, boto.ConnectionError, boto.ChecksumError, boto.FlexibleChecksumError),
    *(boto.IncompleteReadError, boto.MetadataRetrievalError),
)
# Refused now, though their status says for good.
PASSING = {
    *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "InvalidPart", "NoSuchUpload"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
    *(
        "IDPCommunicationError",
        "BandwidthLimitExceeded",
        "ClientDisconnected",
        "OperationAborted",
        "ConditionalRequestConflict",
    ),
}
PASSING_STATUS = {408, 409, 416, 425, 429, 499}
# Answers of the 5xx kind that never change.
REFUSED_STATUS = {501, 505}
MISSING = {"NoSuchBucket", "NoSuchKey", "NotFound", "404"}
# S3 answers 400, not 403, to some of these.
WRONG_CREDENTIALS = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException", "InvalidIdentityToken"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidClientTokenId"),
    "UnrecognizedClientException",
}
DISABLED = {"AccountProblem", "AllAccessDisabled", "NotSignedUp", "InvalidPayer", "UserSuspended"}
FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
FOR_GOOD = {
    "MethodNotAllowed": "the storage does not offer this here; use another bucket or store, or a mount",
    "NotImplemented": "the storage does not offer this; use another store, or a mount",
    "KeyTooLongError": "shorten the prefix or the names",
    "EntityTooLarge": "the storage takes no file as large as this; use another store, or a mount",
    "InvalidStorageClass": "name another storage class",
    "400": "is it encrypted with a customer's own key? then copy it to where S3 can decrypt it",
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


# Another conditional write was under way.
IN_THE_WAY = {"ConditionalRequestConflict", "OperationAborted"}

# The body arrived as something else than was sent; of one in parts, some S3-likes then forget the others.
SPOILED = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "NoSuchUpload"}


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
    code, status, reason = code_of(error), status_of(error), _reason(error)
    if is_away(error):
        return StorageError(
            f"{label}: {reason}; the service that hands out credentials is away, start again when it is back, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code in FULL or status == 507:
        return EnvironmentFailure(f"{label}: the storage is full ({reason}); make room there or have its quota raised")
    if code == "InvalidObjectState":
        return NotFound(
            f"{label}: is archived, so it cannot be read now ({reason}); restore it (aws s3api restore-object), or "
            "copy it to a storage class that can be read at once"
        )
    if _is_denied(error, code, status):
        return DeniedError(f"{label}: {_denied(error, code, reason)}")
    if code in MISSING or (status == 404 and code not in PASSING):
        return NotFound(f"{label}: does not exist ({reason})")
    if _is_for_good(error, code, status):
        return SettingsError(f"{label}: refused, and so would be another try ({reason}); {_mended_by(error, code)}")
    return StorageError(f"{label}: {reason}; the storage did not answer as it should, start again when it does")


def _is_denied(error: Exception, code: str, status: int) -> bool:
    by_credentials = isinstance(error, NO_CREDENTIALS) or code in WRONG_CREDENTIALS or _is_of_header(error)
    return by_credentials or status in (401, 403) or _is_of_kms(code)


def _is_of_header(error: Exception) -> bool:
    """Whether a value that is sent, such as a credential, can stand in no header."""
    return "header value" in str(error)


def _is_of_kms(code: str) -> bool:
    return code.startswith("KMS.")


def _denied(error: Exception, code: str, reason: str) -> str:
    """Why, and what helps."""
    if isinstance(error, NO_CREDENTIALS):
        return f"{reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role"
    if _is_of_header(error):
        return f"{reason}; a credential or the region holds a line break, wherever it came from: write it anew"
    if code == "RequestTimeTooSkewed":
        return f"{reason}; set this machine's clock"
    what = f"access denied ({reason})"
    if _is_of_kms(code):
        return f"{what}; have the KMS key enabled, and grant kms:Decrypt and kms:GenerateDataKey on it"
    if code in WRONG_CREDENTIALS:
        return f"{what}; mend the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, the role)"
    if code in DISABLED:
        return f"{what}; the account or bucket is shut, only its owner or the provider can open it"
    return (
        f"{what}; grant s3:ListBucket, s3:GetObject, and for the output s3:PutObject, s3:DeleteObject and "
        "s3:AbortMultipartUpload, or mend the credentials; where the requester pays, set AWS_REQUEST_PAYER=requester"
    )


def _is_for_good(error: Exception, code: str, status: int) -> bool:
    """Whether the same request would be refused every time."""
    if isinstance(error, BotoCoreError | ResponseParserError):
        return _is_of_certificates(error) or not isinstance(error, UNANSWERED)
    if code in PASSING or status in PASSING_STATUS:
        return False
    return 300 <= status < 500 or status in REFUSED_STATUS or code in FOR_GOOD


def _is_of_certificates(error: Exception) -> bool:
    return isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _mended_by(error: Exception, code: str) -> str:
    if _is_of_certificates(error):
        return "name the certificates that the server's was signed with in AWS_CA_BUNDLE"
    if isinstance(error, boto.MissingDependencyException):
        return "name a bucket, or an access point of one region, instead"
    usual = "check bucket name, AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL and MNRL_S3_ADDRESSING_STYLE"
    return FOR_GOOD.get(code, usual)


def _reason(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    told = re.match(r"An error occurred \((.+?)\) when calling the (\w+) operation(?: \(.*?\))?: ?(.*)", text)
    return f"{told[2]}: {told[1]}, {told[3]}".rstrip(", ") if told else text.rstrip(".")
