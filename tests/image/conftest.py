"""The image under test, beside small data, with no network or with an S3 server on a loopback."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples import write_evalset, write_pairs
from tests.image.containers import Image, docker
from tests.servers.s3 import BUCKET, KEYS, environment_for

S3_PORT = 9000


@pytest.fixture(scope="session")
def name() -> str:
    """The image that `make image-test` has just built."""
    if "IMAGE" not in os.environ:
        pytest.fail("IMAGE names no image; start these tests by: make image-test")
    return os.environ["IMAGE"]


@pytest.fixture
def image(name: str, tmp_path: Path, tiny_model: Path) -> Image:
    """The image, beside small data and a small model, and settings of a run that would succeed."""
    data, output = tmp_path / "data", tmp_path / "output"
    write_pairs(data / "pairs.jsonl")
    write_evalset(data / "faq.json")
    # Without its rights: others may not read what safetensors writes.
    shutil.copytree(tiny_model, data / "model", copy_function=shutil.copyfile)
    output.mkdir()
    output.chmod(0o777)
    settings = {
        "MNRL_TRAIN_DATA": "/data/pairs.jsonl",
        "MNRL_EVAL_DATA": "/data/faq.json",
        "MNRL_BASE_MODEL": "/data/model",
        "MNRL_OUTPUT": "/output",
        "MNRL_RUN_ID": "r",
        "MNRL_BATCH_SIZE": "8",
        "MNRL_LEAKAGE_POLICY": "keep",
        "MNRL_LOG_FORMAT": "text",
    }
    return Image(name, tmp_path, environment=settings)


@pytest.fixture
def bucket(image: Image) -> Iterator[Image]:
    """The image where there is no network but a loopback with an S3 server; its bucket is the folder `s3/bucket`."""
    (image.folder / "s3" / BUCKET).mkdir(parents=True)
    (image.folder / "s3").chmod(0o777)
    (image.folder / "s3" / BUCKET).chmod(0o777)
    rclone = Path(sys.executable).with_name("rclone")
    server = f"mnrl-job-test-s3-{uuid.uuid4().hex[:12]}"
    docker(
        *("run", "--detach", "--rm", "--name", server, "--network", "none", "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--volume", f"{rclone.resolve()}:/rclone:ro", "--volume", f"{image.folder / 's3'}:/s3", "--entrypoint"),
        *("/rclone", image.name, "serve", "s3", "--auth-key", ",".join(KEYS), "--addr", f"127.0.0.1:{S3_PORT}", "/s3"),
    )
    try:
        reach = environment_for(f"http://127.0.0.1:{S3_PORT}")
        yield Image(image.name, image.folder, f"container:{server}", image.environment | reach)
    finally:
        docker("kill", server)
