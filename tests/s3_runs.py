"""Runs with everything on S3: what stands there before, and the settings that name it."""

import uuid

from tests.examples import write_evalset, write_pairs
from tests.servers.s3 import BUCKET, put


def furnish(server, tmp_path, tiny_model):
    """A prefix with training pairs, an eval set and a base model."""
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    pairs = write_pairs(tmp_path / "pairs.jsonl").read_bytes()
    evals = write_evalset(tmp_path / "faq.json").read_bytes()
    model = {f"model/{p.relative_to(tiny_model)}": p.read_bytes() for p in tiny_model.rglob("*") if p.is_file()}
    put(server, uri, {"data/pairs.jsonl": pairs, "eval/faq.json": evals, **model})
    return uri


def settings_for(place, **changes):
    return {
        "MNRL_TRAIN_DATA": f"{place}/data",
        "MNRL_EVAL_DATA": f"{place}/eval/faq.json",
        "MNRL_BASE_MODEL": f"{place}/model",
        "MNRL_OUTPUT": f"{place}/runs",
        "MNRL_RUN_ID": "r",
        "MNRL_BATCH_SIZE": "8",
    } | changes
