"""What is wrong with models, storage, runs that stand there already, and devices."""

from functools import partial
from hashlib import sha256
from importlib.metadata import version

from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from mnrl_job.launch.run_identity import RunIdentity
from mnrl_job.runs.checkpoints import refuse_other_run
from mnrl_job.system.devices import worker_count
from tests.embedding.folders import with_json
from tests.messages.provoking import (
    Catalogue,
    base_model,
    begin_step,
    boto,
    compared,
    cut_off,
    loaded,
    output_at,
    published,
    s3,
    unchanged,
    verified,
    without_tokenizer,
)

MADE = {"settings": {"batch_size": 8}, "inputs": {"train/faq": "abc"}}
CHECKPOINT = "out/r/checkpoints/step-10"

MODELS: Catalogue = {
    "a folder that is not there": (
        base_model("./gone"),
        66,
        "MNRL_BASE_MODEL: ./gone is not a folder; give a model folder, an s3:// prefix or a Hub id (owner/name)",
    ),
    "a folder without weights": (
        base_model("m", {"m/config.json": "{}"}),
        66,
        "MNRL_BASE_MODEL: m contains no weights (*.safetensors or pytorch_model*.bin or adapter_model.bin); give a "
        "folder written by SentenceTransformer.save_pretrained()",
    ),
    "a tokenizer that is missing": (
        loaded(without_tokenizer),
        65,
        "MNRL_BASE_MODEL: m: it has no tokenizer files, or none with a vocabulary; use the model with its original "
        "tokenizer files",
    ),
    "weights that are cut off": (
        loaded(cut_off),
        65,
        "MNRL_BASE_MODEL: m cannot be loaded: Error while deserializing header: invalid header length; the folder "
        "is damaged or not a Sentence Transformers model",
    ),
    "a model of another kind": (
        loaded(lambda folder: with_json(folder / "config.json", model_type="own")),
        65,
        f"MNRL_BASE_MODEL: m cannot be loaded: transformers {version('transformers')} does not support its model "
        "type own: it requires custom code, which is never run, or a newer release; use a model of a supported type",
    ),
    "more tokens than it takes": (
        loaded(unchanged, max_seq_length=65),
        64,
        "MNRL_MAX_SEQ_LENGTH=65: the model accepts at most 64 tokens",
    ),
    "more dimensions than it has": (
        loaded(unchanged, matryoshka_dims=(384, 16)),
        64,
        "MNRL_MATRYOSHKA_DIMS=384,16: the model has 32 dimensions; use 32 or fewer",
    ),
}
STORAGE: Catalogue = {
    "an output below a file": (
        output_at("model/config.json/out"),
        64,
        "MNRL_OUTPUT: model/config.json/out: cannot write: Not a directory; name a folder",
    ),
    "credentials in a URI": (
        output_at("s3://key:secret@bucket/runs"),
        64,
        "MNRL_OUTPUT: an s3:// URI must not contain credentials or a port; set AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or use a role",
    ),
    "another scheme of S3": (
        output_at("s3a://bucket/runs"),
        64,
        "MNRL_OUTPUT: s3a://bucket/runs: s3a:// is not supported; write s3://bucket/runs",
    ),
    "access that is denied": (
        s3("AccessDenied", 403),
        77,
        "MNRL_OUTPUT: s3://bucket/runs/r: access denied (PutObject: AccessDenied, No); grant s3:ListBucket, "
        "s3:GetObject, and for the output s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload, or check the "
        "credentials; for requester-pays buckets set AWS_REQUEST_PAYER=requester",
    ),
    "a token that has expired": (
        s3("ExpiredToken", 400),
        77,
        "MNRL_OUTPUT: s3://bucket/runs/r: access denied (PutObject: ExpiredToken, No); check the credentials "
        "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, the role)",
    ),
    "a bucket that is not there": (
        s3("NoSuchBucket", 404),
        66,
        "MNRL_OUTPUT: s3://bucket/runs/r: does not exist (PutObject: NoSuchBucket, No)",
    ),
    "an object that is archived": (
        s3("InvalidObjectState", 403, "GetObject"),
        66,
        "MNRL_OUTPUT: s3://bucket/runs/r: is archived and cannot be read now (GetObject: InvalidObjectState, "
        "No); restore it (aws s3api restore-object), or copy it to a storage class with immediate access",
    ),
    "a server that is busy": (
        s3("SlowDown", 503),
        69,
        "MNRL_OUTPUT: s3://bucket/runs/r: PutObject: SlowDown, No; unexpected response of the storage; start again "
        "when it has recovered",
    ),
    "no credentials": (
        boto(NoCredentialsError()),
        77,
        "MNRL_OUTPUT: s3://bucket/runs/r: Unable to locate credentials; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role",
    ),
    "a server out of reach": (
        boto(EndpointConnectionError(endpoint_url="http://minio:9000")),
        69,
        'MNRL_OUTPUT: s3://bucket/runs/r: Could not connect to the endpoint URL: "http://minio:9000"; '
        "unexpected response of the storage; start again when it has recovered",
    ),
}
PUBLISHING: Catalogue = {
    "a run with other settings": (
        published({"_SUCCESS": "{}", "manifest.json": '{"settings_sha256": "def", "files": {}}'}),
        64,
        "MNRL_OUTPUT: out/r was published with other settings; it is never overwritten: choose another MNRL_RUN_ID",
    ),
    "a run without a manifest": (
        published({"_SUCCESS": "{}"}),
        65,
        "MNRL_OUTPUT: out/r: there is _SUCCESS, but no readable manifest.json; this run was changed after publishing: "
        "restore it or choose another MNRL_RUN_ID",
    ),
    "a checkpoint with another setting": (
        partial(refuse_other_run, CHECKPOINT, MADE, RunIdentity({"batch_size": 16}, MADE["inputs"])),
        64,
        "MNRL_BATCH_SIZE: out/r/checkpoints/step-10 was made with 8, now it is 16; go back to that, or choose "
        "another MNRL_RUN_ID",
    ),
    "a checkpoint from other data": (
        partial(refuse_other_run, CHECKPOINT, MADE, RunIdentity(MADE["settings"], {"train/faq": "abd"})),
        65,
        "train/faq: out/r/checkpoints/step-10 was made from other data; go back to that, or choose another MNRL_RUN_ID",
    ),
    "nothing to verify": (
        verified({}),
        66,
        "URI: out/r: no _SUCCESS, nothing is there; give the URI of a finished run (OUTPUT/RUN_ID)",
    ),
    "a run that never finished": (
        verified({"manifest.json": "{}"}),
        66,
        "URI: out/r: no _SUCCESS, it was never finished; give the URI of a finished run (OUTPUT/RUN_ID)",
    ),
    "one run to compare": (
        compared(a="abc"),
        64,
        "RUN: give two or more different runs (OUTPUT/RUN_ID); given: out/a",
    ),
    "runs of different eval sets": (
        compared(a="abc", b="def"),
        65,
        "RUN: out/a, out/b have no eval set in common; evaluate the models on one",
    ),
}
TOKENS: Catalogue = {
    "a shard that is gone": (
        begin_step({}),
        65,
        "MNRL_TRAIN_DATA: tokens/000000.arrow is missing; prepare the data again",
    ),
    "a shard that is damaged": (
        begin_step({"tokens/000000.arrow": "x"}),
        65,
        f"MNRL_TRAIN_DATA: tokens/000000.arrow is damaged: its SHA-256 is {sha256(b'x').hexdigest()}, not abc; prepare "
        "the data again",
    ),
}
DEVICES: Catalogue = {
    "fewer GPUs than processes": (
        partial(worker_count, 2, 1),
        78,
        "MNRL_NUM_PROCESSES=2, but only 1 GPU(s) are visible; each worker needs one: lower MNRL_NUM_PROCESSES "
        "or make more GPUs visible in CUDA_VISIBLE_DEVICES",
    ),
}
