"""S3 errors by kind: denied, missing, permanent or transient."""

import ssl

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from mnrl_job.storage.s3_errors import explain

# Documented S3 error codes and those of compatible stores, by exit code.
CODES = {
    64: [
        *(("MethodNotAllowed", 405), ("405", 405), ("NotImplemented", 501), ("InvalidRequest", 400)),
        *(("InvalidArgument", 400), ("MalformedXML", 400), ("KeyTooLongError", 400), ("EntityTooLarge", 400)),
        *(("InvalidBucketName", 400), ("InvalidStorageClass", 400), ("ObjectLockConfigurationNotFoundError", 400)),
        *(("PermanentRedirect", 301), ("IllegalLocationConstraintException", 400), ("SomethingNew", 422)),
        *(("AuthorizationHeaderMalformed", 400), ("InvalidEncryptionAlgorithmError", 400), ("400", 400)),
    ],
    66: [("NoSuchBucket", 404), ("NoSuchKey", 404), ("404", 404), ("InvalidObjectState", 403)],
    69: [
        *(("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400), ("Throttling", 400), ("502", 502)),
        *(("OperationAborted", 409), ("BadDigest", 400), ("TooManyRequests", 429), ("NoSuchUpload", 404)),
        *(("ServiceUnavailable", 503), ("InvalidRange", 416)),
    ],
    77: [
        *(("AccessDenied", 403), ("403", 403), ("InvalidAccessKeyId", 403), ("SignatureDoesNotMatch", 403)),
        *(("ExpiredToken", 400), ("KMS.DisabledException", 400), ("KMS.NotFoundException", 400)),
        *(("AllAccessDisabled", 403), ("AccountProblem", 403), ("RequestTimeTooSkewed", 403), ("InvalidToken", 400)),
    ],
    78: [("QuotaExceeded", 403), ("XMinioStorageFull", 507), ("507", 507)],
}


def refused(code, status):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("exit_code", "code", "status"), [(number, *code) for number, codes in CODES.items() for code in codes]
)
def test_only_transient_errors_suggest_to_start_again(exit_code, code, status):
    failure = explain(refused(code, status), "MNRL_OUTPUT: s3://bucket/run")
    assert failure.code == exit_code
    assert failure.retry_helps == ("start again" in str(failure)) == (exit_code == 69)
    assert str(failure).startswith("MNRL_OUTPUT: s3://bucket/run: ")
    assert code in str(failure)
    assert "; " in str(failure) or exit_code == 66


UNTRUSTED = ssl.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


@pytest.mark.parametrize(
    ("error", "exit_code", "expected"),
    [
        (boto.EndpointConnectionError(endpoint_url="http://x"), 69, "start again"),
        (boto.ReadTimeoutError(endpoint_url="http://x"), 69, "start again"),
        (boto.SSLError(endpoint_url="https://x", error=UNTRUSTED), 64, "AWS_CA_BUNDLE"),
        (boto.SSLError(endpoint_url="https://x", error=ssl.SSLError("unexpected eof")), 69, "start again"),
        (ResponseParserError("invalid XML received"), 64, "AWS_ENDPOINT_URL"),
        (
            boto.MissingDependencyException(msg="Multi-Region Access Points need awscrt"),
            64,
            "single-region access point",
        ),
        (boto.NoCredentialsError(), 77, "AWS_ACCESS_KEY_ID"),
        (boto.EndpointProviderError(msg="Path-style addressing cannot be used"), 64, "MNRL_S3_ADDRESSING_STYLE"),
    ],
)
def test_botocore_errors_map_to_the_right_exit_code(error, exit_code, expected):
    failure = explain(error, "MNRL_OUTPUT: s3://bucket")
    assert (failure.code, failure.retry_helps) == (exit_code, exit_code == 69)
    assert expected in str(failure)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AccessDenied", "AWS_REQUEST_PAYER=requester"),
        ("KMS.DisabledException", "kms:Decrypt"),
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("InvalidObjectState", "restore-object"),
        ("RequestTimeTooSkewed", "clock"),
    ],
)
def test_each_refusal_has_a_specific_remedy(code, expected):
    assert expected in str(explain(refused(code, 403), "x"))
