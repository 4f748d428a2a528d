"""How to provoke a refusal by the cheapest layer that says it, in the current folder, where `model` is a model."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from botocore.exceptions import ClientError

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.config.dotenv_file import read_dotenv
from mnrl_job.config.reader import read_settings
from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.ragged import no_values
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import fetch, locate, locate_model
from mnrl_job.deduplication.groups import find_groups
from mnrl_job.launch.nodes import find_nodes
from mnrl_job.pipeline.compare import compare_runs
from mnrl_job.pipeline.holdout import hold_out_eval_set
from mnrl_job.pipeline.inputs import check_eval_names
from mnrl_job.pipeline.plan_batches import refuse_large_batch, refuse_without_contrast
from mnrl_job.runs.publish import already_published
from mnrl_job.runs.verify import verify_run
from mnrl_job.storage import open_store
from mnrl_job.storage.s3_errors import explain
from mnrl_job.training.shard_files import ShardFiles
from tests.data.reading import read
from tests.deduplication.rows import Rows, pairs_of

Provoke = Callable[[], object]
# How to provoke it, the exit code, the sentence.
Catalogue = dict[str, tuple[Provoke, int, str]]

NEEDED = {"MNRL_TRAIN_DATA": "pairs.jsonl", "MNRL_OUTPUT": "out"}
BUCKET = "MNRL_OUTPUT: s3://bucket/runs/r"
# A sound eval set in both layouts.
JUDGED = {"queries": {"q1": "one"}, "corpus": {"d1": "first", "d2": "second"}, "relevant_docs": {"q1": ["d1"]}}
BEIR = {
    "corpus.jsonl": '{"_id": "d1", "text": "first"}\n{"_id": "d2", "text": "second"}\n',
    "queries.jsonl": '{"_id": "q1", "text": "one"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


def write(files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def environment(command: str = "train", **given: str) -> Provoke:
    return lambda: read_settings(command, {}, NEEDED | given, {})


def dotenv(content: str | bytes) -> Provoke:
    def provoke() -> None:
        write({".env": content})
        read_settings("train", {}, NEEDED, read_dotenv(Path(".env")))

    return provoke


def training(content: str | bytes, name: str = "p.jsonl", **settings: object) -> Provoke:
    """Read a file of training pairs."""

    def provoke() -> None:
        write({name: content})
        read(Path(), Path(name), **settings)

    return provoke


def training_folder(files: Mapping[str, str | bytes], **settings: object) -> Provoke:
    def provoke() -> None:
        write({f"set/{name}": content for name, content in files.items()})
        read(Path(), Path("set"), **settings)

    return provoke


def evaluation(name: str, files: Mapping[str, str | bytes]) -> Provoke:
    """Read an eval set that some files are part of."""

    def provoke() -> None:
        write(files)
        read_evalset(fetch(locate(Source("set", name), "MNRL_EVAL_DATA"), Path("in")), Path("eval"))

    return provoke


def judged(**changes: object) -> Provoke:
    return evaluation("set.json", {"set.json": json.dumps(JUDGED | changes)})


def beir(**changes: str | None) -> Provoke:
    """Of a BEIR folder whose `corpus`, `queries` or `qrels` are others, or are not there."""
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": "qrels/test.tsv"}
    files = BEIR | {names[part]: content for part, content in changes.items()}
    return evaluation("set", {f"set/{name}": content for name, content in files.items() if content is not None})


def input_at(uri: str, variable: str = "MNRL_TRAIN_DATA") -> Provoke:
    def provoke() -> None:
        (source,) = read_settings("train", {}, NEEDED | {"MNRL_TRAIN_DATA": uri}, {})[0].train_data
        locate(source, variable)

    return provoke


TOKENS = TokenShards("tokens", 1, ("abc",), "", ((), ()), 1, 0.0)


def begin_step(files: Mapping[str, str]) -> Provoke:
    """Of a run on prepared tokens whose folder has these files."""

    def provoke() -> None:
        write(files)
        ShardFiles(TOKENS, 1, Path("scratch"), "auto").begin_step(0)

    return provoke


def output_at(uri: str) -> Provoke:
    return lambda: open_store(uri, "MNRL_OUTPUT").write("a", b"x")


def base_model(name: str, files: Mapping[str, str | bytes] | None = None) -> Provoke:
    """Look for a model, before it is loaded."""

    def provoke() -> None:
        write(files or {})
        locate_model(name)

    return provoke


def loaded(change: Callable[[Path], object], **settings: object) -> Provoke:
    """Load a changed copy of the model, `m`."""

    def provoke() -> None:
        from mnrl_job.embedding.loading import ModelOptions, load_model

        change(Path(shutil.copytree("model", "m")))
        load_model("m", ModelOptions(**settings))

    return provoke


def s3(code: str, status: int, operation: str = "PutObject") -> Provoke:
    """What an S3 server answers."""
    answer = {"Error": {"Code": code, "Message": "No"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto(ClientError(answer, operation))


def boto(error: Exception) -> Provoke:
    def provoke() -> None:
        raise explain(error, BUCKET)

    return provoke


def batches(positives: int, sources: tuple[int, ...] = (20,), **settings: object) -> Provoke:
    """Lay out rows that have so many distinct positives."""

    def provoke() -> None:
        rows = np.arange(sum(sources))
        records = [SourceRecord(f"s{i}", "", 1, count, count, "", {}, ()) for i, count in enumerate(sources)]
        groups = np.stack([1000 + rows, rows % positives], axis=1)
        refuse_without_contrast(groups, no_values(len(rows)))
        refuse_large_batch(records, Settings(**settings).batch_size)

    return provoke


def without_eval_sets(**settings: object) -> Provoke:
    return lambda: check_eval_names(Settings(**settings), ())


def published(files: Mapping[str, str]) -> Provoke:
    """Publish a run where these files of one stand."""

    def provoke() -> None:
        write({f"out/r/{name}": content for name, content in files.items()})
        already_published(open_store("out/r", "MNRL_OUTPUT"), "abc")

    return provoke


def verified(files: Mapping[str, str]) -> Provoke:
    def provoke() -> None:
        write({f"out/r/{name}": content for name, content in files.items()})
        verify_run(open_store("out/r", "URI"), Path("scratch"))

    return provoke


def compared(**eval_sets: str) -> Provoke:
    """Compare runs, by name, which have one eval set with this hash."""

    def provoke() -> None:
        for run, digest in eval_sets.items():
            metrics = json.dumps({"data": {"eval": {"faq": {"sha256": digest}}}})
            record = {"bytes": len(metrics), "sha256": hashlib.sha256(metrics.encode()).hexdigest()}
            manifest = json.dumps({"files": {"metrics.json": record}})
            marker = json.dumps({"manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest()})
            files = {"metrics.json": metrics, "manifest.json": manifest, "_SUCCESS": marker}
            write({f"out/{run}/{name}": content for name, content in files.items()})
        compare_runs([f"out/{run}" for run in eval_sets], Path("comparison.html"), Settings())

    return provoke


def nodes(environ: Mapping[str, str] | None = None, **settings: object) -> Provoke:
    names = "num_nodes", "node_rank", "master_addr", "run_id"
    fields = [getattr(Settings(**settings), name) for name in names]
    return lambda: find_nodes(*fields, environ or {}, lambda: "node-0.jobs")


def unchanged(folder: Path) -> None:
    """A model as it is."""


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def holding_out(rows: Rows, **settings: object) -> Provoke:
    """Hold an eval set out of these pairs."""

    def provoke() -> None:
        read_rows = pairs_of(rows, Path("pairs"))
        groups = find_groups(read_rows, None, 0.9, Path("texts"))
        hold_out_eval_set(Settings(**settings), read_rows, groups, Path())

    return provoke
