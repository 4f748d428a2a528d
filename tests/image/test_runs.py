"""Whole runs of the bundled example, as a user would start them: nothing but the image and what is mounted or in S3."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from tests.image.containers import ARBITRARY_USER, Image, docker
from tests.program import ROOT
from tests.servers.s3 import BUCKET

pytestmark = pytest.mark.image

EXAMPLE = {"MNRL_EPOCHS": "1", "MNRL_BATCH_SIZE": "64", "MNRL_LEARNING_RATE": "3e-4", "MNRL_LEAKAGE_POLICY": "remove"}


def furnish(folder: Path, minilm: Path) -> None:
    """The example's data and its base model, as make train takes them."""
    shutil.copytree(ROOT / "examples" / "support-faq", folder / "example")
    shutil.copytree(minilm, folder / "minilm")


def settings_at(place: str) -> dict[str, str]:
    return EXAMPLE | {
        "MNRL_TRAIN_DATA": f"{place}/example/train.jsonl,{place}/example/glossary.tsv",
        "MNRL_EVAL_DATA": f"support-faq={place}/example/eval",
        "MNRL_BASE_MODEL": f"{place}/minilm",
    }


def check_run(run: Path, image: Image) -> None:
    """It is complete, it got better, and it says which image made it, as the image's labels do."""
    assert (run / "_SUCCESS").exists()
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    jsonschema.validate(metrics, json.loads((ROOT / "docs" / "metrics.schema.json").read_text(encoding="utf-8")))
    assert metrics["primary_metric"]["delta"] > 0
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image.name))
    assert metrics["environment"]["git_sha"] == labels["org.opencontainers.image.revision"]
    assert metrics["environment"]["image"] == image.name


def test_it_trains_from_mount_to_mount_without_any_network(image: Image, minilm: Path):
    furnish(image.folder / "data", minilm)
    ended = image.run(user=ARBITRARY_USER, **settings_at("/data"))
    assert ended.code == 0, ended.stderr
    assert "succeeded: support-faq.ndcg@10 rose" in ended.last_line
    check_run(image.folder / "output" / "r", image)
    verified = image.run("verify", "/output/r")
    assert verified.code == 0, verified.stderr


def test_it_trains_from_s3_to_s3(bucket: Image, minilm: Path):
    furnish(bucket.folder / "s3" / BUCKET, minilm)
    settings = settings_at(f"s3://{BUCKET}") | {"MNRL_OUTPUT": f"s3://{BUCKET}/runs"}
    ended = bucket.run(**settings)
    assert ended.code == 0, ended.stderr
    check_run(bucket.folder / "s3" / BUCKET / "runs" / "r", bucket)
    assert not [*(bucket.folder / "output").iterdir()]


def test_wrong_keys_end_with_77(bucket: Image):
    settings = {"MNRL_OUTPUT": f"s3://{BUCKET}/runs", "AWS_SECRET_ACCESS_KEY": "a-secret-of-somebody-else"}
    ended = bucket.run(**settings)
    assert ended.code == 77, ended.stderr
    assert "a-secret-of-somebody-else" not in ended.stderr + ended.stdout


def test_check_passes_where_train_would(image: Image):
    ended = image.run("check", user=ARBITRARY_USER)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "passed   user" in ended.stdout
