"""Credentials of an agent or a metadata service, over HTTP with injected failures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest

from mnrl_job.errors import DeniedError, StorageError
from tests.servers.s3 import open_at

pytestmark = pytest.mark.usefixtures("no_backoff")
ALWAYS = 1_000_000


@contextmanager
def credential_service(keys: dict[str, str]) -> Iterator[SimpleNamespace]:
    """A service that responds like both kinds; the next `failures` responses have `status` instead."""
    service = SimpleNamespace(failures=0, status=500, lifetime=timedelta(hours=6), answers=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.answers += 1
            failing, service.failures = service.failures > 0, service.failures - 1
            self.send_response(service.status if failing else 200)
            self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            if not failing:
                self.wfile.write(self._body().encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def _body(self) -> str:
            if self.path.endswith("token"):
                return "token"
            if self.path.endswith("security-credentials/"):
                return "role"
            until = datetime.now(UTC) + service.lifetime
            return json.dumps(keys | {"Code": "Success", "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")})

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    service.uri = f"http://127.0.0.1:{server.server_port}"
    yield service
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["agent", "metadata service"])
def kind(request):
    return request.param


@pytest.fixture
def service(kind, moto, reach, monkeypatch):
    """The only source of credentials; `store_uri` is in the storage."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.0)
    store_uri = reach(moto)
    key, secret = moto.environment["AWS_ACCESS_KEY_ID"], moto.environment["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with credential_service({"AccessKeyId": key, "SecretAccessKey": secret, "Token": "t"}) as service:
        if kind == "agent":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.uri}/credentials")
        else:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.uri)
        service.store_uri = store_uri
        yield service


def test_a_provider_that_is_briefly_unavailable_is_retried(service):
    service.failures = 7
    store = open_at(service.store_uri)
    store.write("a", b"x")
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_a_provider_that_stays_unavailable_is_a_storage_error(service):
    service.failures = ALWAYS
    with pytest.raises(StorageError, match="credential provider"):
        open_at(service.store_uri).write("a", b"x")


@pytest.mark.parametrize("kind", ["agent"])  # boto3 keeps using expired ones of a metadata service
def test_renewing_expired_credentials_is_retried(service):
    service.lifetime = timedelta(seconds=1)
    store = open_at(service.store_uri)
    service.failures = 7
    store.write("a", b"x")
    service.failures = ALWAYS
    with pytest.raises(StorageError, match="credential provider"):
        store.write("b", b"x")


@pytest.mark.parametrize("kind", ["agent"])
def test_a_refusal_by_an_agent_is_not_retried(service):
    service.failures, service.status = ALWAYS, 403
    with pytest.raises(DeniedError):
        open_at(service.store_uri).write("a", b"x")
    assert service.answers == 6, "boto3 itself makes three attempts"


def test_without_a_provider_missing_credentials_are_denied(moto, reach, monkeypatch):
    store_uri = reach(moto)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(DeniedError, match="AWS_ACCESS_KEY_ID"):
        open_at(store_uri).write("a", b"x")
