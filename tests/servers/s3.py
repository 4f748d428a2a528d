"""moto (enforces conditional writes) and rclone (ignores them), each as a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3.session
from botocore.config import Config

from mnrl_job.storage import Store, open_store

KEYS = ("ACCESSKEY1", "SECRETKEY1")
BUCKET = "bucket"
SMALL_PART = 1 << 18


@dataclass(frozen=True)
class Server:
    """An S3 server; `environment` is what a user would set to reach it."""

    kind: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return environment_for(self.endpoint)

    def client(self) -> Any:
        """A client of the tests' own, past any proxy."""
        return client_of(self.endpoint)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def put(self, prefix: str, folder: Path) -> None:
        """Put a folder's files below a prefix."""
        client = self.client()
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that nobody has completed or aborted."""
        client = self.client()
        with suppress(client.exceptions.NoSuchUpload):  # rclone says so where there are none
            return [found["Key"] for found in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]
        return []


@cache
def client_of(endpoint: str) -> Any:
    session = boto3.session.Session(*KEYS, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))


def environment_for(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "MNRL_S3_ADDRESSING_STYLE": "path",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(kind: str, folder: Path) -> Iterator[Server]:
    """Run `moto` or `rclone` with one empty bucket."""
    server = Server(kind, free_port())
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    binaries = Path(sys.executable).parent
    commands = {
        "moto": [str(binaries / "moto_server"), "-H", "127.0.0.1", "-p", str(server.port)],
        "rclone": [
            *(str(binaries / "rclone"), "serve", "s3", "--auth-key", ",".join(KEYS)),
            *("--addr", f"127.0.0.1:{server.port}", str(folder)),
        ],
    }
    with (folder / f"{kind}.log").open("w") as log:
        process = subprocess.Popen(commands[kind], stdout=log, stderr=log, env=os.environ | {"AWS_REGION": "us-east-1"})
        try:
            wait_for(server.port)
            if kind == "moto":
                server.client().create_bucket(Bucket=BUCKET)
            yield server
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def open_at(uri: str) -> Store:
    return open_store(uri, "MNRL_OUTPUT", "path")


def put(server: Server, uri: str, objects: Mapping[str, bytes]) -> None:
    """Put objects below a prefix, past any proxy."""
    client = server.client()
    for key, content in objects.items():
        client.put_object(Bucket=BUCKET, Key=f"{prefix_of(uri)}{key}", Body=content)


def objects(server: Server, uri: str) -> dict[str, bytes]:
    """All objects below a prefix."""
    prefix = prefix_of(uri)
    return {key.removeprefix(prefix): content for key, content in server.objects(prefix).items()}


def open_uploads(server: Server, uri: str) -> list[str]:
    """The keys below a prefix that multipart uploads were begun for, and neither completed nor aborted."""
    return [key for key in server.uploads() if key.startswith(prefix_of(uri))]


def prefix_of(uri: str) -> str:
    return f"{uri.removeprefix(f's3://{BUCKET}/')}/"
