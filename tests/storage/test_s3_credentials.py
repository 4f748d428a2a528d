"""Credentials by an agent or a metadata service, real ones that fail as often as they are told to."""

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

pytestmark = pytest.mark.usefixtures("no_pauses")
ALWAYS = 1_000_000


@contextmanager
def handing_out(keys: dict[str, str]) -> Iterator[SimpleNamespace]:
    """A service that answers as both kinds do; so many answers, from now on, are `status` instead."""
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
    """The only source of credentials; `uri` of the service, `place` at the storage."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.0)
    place = reach(moto)
    key, secret = moto.environment["AWS_ACCESS_KEY_ID"], moto.environment["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with handing_out({"AccessKeyId": key, "SecretAccessKey": secret, "Token": "t"}) as service:
        if kind == "agent":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.uri}/credentials")
        else:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.uri)
        service.place = place
        yield service


def test_one_that_is_away_for_a_moment_is_waited_for(service):
    service.failures = 7
    store = open_at(service.place)
    store.write("a", b"x")
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_one_that_stays_away_ends_as_storage_does(service):
    service.failures = ALWAYS
    with pytest.raises(StorageError, match="hands out credentials"):
        open_at(service.place).write("a", b"x")


@pytest.mark.parametrize("kind", ["agent"])  # boto3 itself goes on with a metadata service's old ones
def test_credentials_that_expire_meanwhile_are_waited_for_too(service):
    service.lifetime = timedelta(seconds=1)
    store = open_at(service.place)
    service.failures = 7
    store.write("a", b"x")
    service.failures = ALWAYS
    with pytest.raises(StorageError, match="hands out credentials"):
        store.write("b", b"x")


@pytest.mark.parametrize("kind", ["agent"])
def test_an_agent_that_refuses_is_asked_once_and_told(service):
    service.failures, service.status = ALWAYS, 403
    with pytest.raises(DeniedError):
        open_at(service.place).write("a", b"x")
    assert service.answers == 6, "boto3 itself asks three times"


def test_without_anybody_to_ask_there_are_no_credentials(moto, reach, monkeypatch):
    place = reach(moto)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(DeniedError, match="AWS_ACCESS_KEY_ID"):
        open_at(place).write("a", b"x")
