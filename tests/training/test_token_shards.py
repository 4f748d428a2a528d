"""Training from prepared tokens is training on the same texts: bit for bit, wherever it starts."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_negatives, write_columns, write_labels
from mnrl_job.embedding.chunks import default_chunk_budget
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.errors import DataError, StorageError
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.storage.manifest import write_manifest
from mnrl_job.system.devices import Devices
from mnrl_job.system.files import sha256_of
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.system.threads import parallel
from mnrl_job.training import shard_files, shard_writer
from mnrl_job.training import trainer as trainer_module
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.collator import build_collator
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.memory import max_tokens_per_rank
from mnrl_job.training.shard_collator import ShardCollator
from mnrl_job.training.shard_files import ShardFiles
from mnrl_job.training.shard_writer import largest_slices, write_shards
from mnrl_job.training.trainer import PlannedTrainer
from mnrl_job.worker.results import Tokenized, TrialRun, WorkerResult
from mnrl_job.worker.tokens import with_usable_tokens
from tests.examples import PAIRS
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET, prefix_of
from tests.training.rank_training import StopAt
from tests.training.rank_training import train as train_rank

ROWS, BATCH = 48, 8
SETTINGS = Settings(batch_size=BATCH, precision="fp32", learning_rate=1e-3)


@pytest.fixture
def data(tmp_path):
    """Pairs of which anchors repeat with other positives, with up to two negatives each; two epochs of six steps."""
    numbers = np.arange(ROWS)
    anchors = [f"{PAIRS[i % 8][0]} {'abcd'[i % 4]}" for i in range(ROWS)]
    positives = [f"{PAIRS[i % 8][1]} {i // 8}" for i in range(ROWS)]
    negatives = [[PAIRS[(i + k) % 8][1] for k in range(1, 1 + i % 3)] for i in range(ROWS)]
    write_columns(tmp_path / "pairs.arrow", anchor=anchors, positive=positives, negatives=negatives)
    groups = np.stack([numbers % 8, 100 + numbers % 24], axis=1)
    offsets = np.cumsum([0, *map(len, negatives)])
    values = np.where(np.arange(offsets[-1]) % 7, 100 + np.arange(offsets[-1]) % 24, NO_GROUP)
    write_labels(tmp_path / "labels.arrow", groups, Ragged(values, offsets))
    rng = np.random.default_rng(1)
    np.save(tmp_path / "plan.npy", np.concatenate([rng.permutation(ROWS).reshape(-1, BATCH) for _ in range(2)]))
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive", "negatives"), ROWS, ROWS, {}, (), ())
    return TrainingData(pairs, BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", 12, (0, 6)))


@pytest.fixture
def load(tiny_model):
    """The model, with prompts."""

    def load(query="where is my "):
        model = SentenceTransformer(str(tiny_model), device="cpu")
        model.prompts = {"query": query, "document": "open a "}
        return model

    return load


@pytest.fixture
def shards(data, load, tmp_path, monkeypatch):
    """The tokens of the plan in files of about 16 rows each, as a task carries them."""
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 4000)
    written = write_shards(load(), data.pairs, data.batch_plan, tmp_path / "tokens")
    assert 1 < written.steps_per_shard < 5
    write_record(tmp_path / "shards.json", replace(data.batch_plan, tokens=written))
    return read_record(tmp_path / "shards.json", BatchPlan)


def without_texts(data, batch_plan, tmp_path):
    """What a machine has that downloaded neither texts nor groups."""
    missing = tmp_path / "missing"
    return TrainingData(replace(data.pairs, path=missing), replace(batch_plan, labels=missing))


def train(model, data, folder, stop_at=None, resume=None, **changes):
    """Train, and give the weights and the log."""
    folder.mkdir(exist_ok=True)
    settings = SETTINGS.model_copy(update=changes)
    spec = CheckpointSpec({}, (), None)
    trainer = PlannedTrainer(model, settings, data, AttemptFolders(folder, folder), spec)
    if stop_at:
        trainer.add_callback(StopAt(stop_at))
    trainer.train(resume_from_checkpoint=resume)
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    log = [{key: line[key] for key in ("step", "loss", "grad_norm", "rows_digest")} for line in lines]
    return torch.cat([weight.detach().ravel() for weight in model.parameters()]), log


@pytest.mark.parametrize("loss", ["mnrl", "symmetric", "gte"])
def test_weights_are_bit_equal_to_those_of_training_on_texts(data, shards, load, tmp_path, loss):
    expected = train(load(), data, tmp_path / "texts", loss=loss)
    found = train(load(), without_texts(data, shards, tmp_path), tmp_path / "shards", loss=loss)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_training_resumes_in_the_middle_of_a_shard_and_opens_no_earlier_one(data, shards, load, tmp_path):
    expected = train(load(), data, tmp_path / "texts")
    data = without_texts(data, shards, tmp_path)
    stop = shards.tokens.steps_per_shard * 2 + 1
    train(load(), data, tmp_path / "shards", stop_at=stop)
    for index in range(2):
        (tmp_path / "tokens" / f"{index:06}.arrow").unlink()
    checkpoint = tmp_path / "shards" / "trainer" / f"checkpoint-{stop}"
    found = train(load(), data, tmp_path / "shards", resume=str(checkpoint))
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_a_run_shorter_than_the_plan_needs_only_its_shards(data, shards, load, tmp_path):
    for path in sorted((tmp_path / "tokens").iterdir())[2:]:
        path.unlink()
    steps = shards.tokens.steps_per_shard + 1
    expected = train(load(), data, tmp_path / "texts", max_steps=steps)
    found = train(load(), without_texts(data, shards, tmp_path), tmp_path / "shards", max_steps=steps)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_shard_that_is_not_whole_ends_the_run_and_is_named(data, shards, load, tmp_path, damage):
    path = tmp_path / "tokens" / "000001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink() if damage == "missing" else path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^MNRL_TRAIN_DATA: {path} ") as raised:
        train(load(), without_texts(data, shards, tmp_path), tmp_path / "shards")
    assert raised.value.code == 65
    assert len(str(raised.value).splitlines()) == 1


@pytest.fixture
def remote(shards, tmp_path, monkeypatch):
    """The shards on a server, and not here; a shard counts as passed one step later."""
    monkeypatch.setattr(shard_files, "PASSED_AFTER", 1)

    def put(server, uri):
        server.put(prefix_of(uri).rstrip("/"), tmp_path / "tokens")
        shutil.rmtree(tmp_path / "tokens")
        return replace(shards, tokens=replace(shards.tokens, uri=uri))

    return put


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """The shards that are on this disk whenever a step begins."""
    seen = []
    begin_step = ShardFiles.begin_step

    def watch(files, step):
        begin_step(files, step)
        for fetched in list(files._fetches.values()):
            fetched()  # what was begun in the background has arrived
        seen.append(sorted(int(path.stem) for path in tmp_path.rglob("tokens/*/*.arrow")))

    monkeypatch.setattr(ShardFiles, "begin_step", watch)
    return seen


def test_shards_of_a_store_come_one_ahead_and_at_most_two_are_here(data, remote, load, server, uri, on_disk, tmp_path):
    expected = train(load(), data, tmp_path / "texts")
    batch_plan = remote(server, uri)
    data = without_texts(data, batch_plan, tmp_path)
    last = len(batch_plan.tokens.sha256) - 1
    found = train(load(), data, tmp_path / "shards", s3_addressing_style="path")
    assert torch.equal(found[0], expected[0])
    per = batch_plan.tokens.steps_per_shard
    assert [on_disk[step] for step in (0, per - 1, 2 * per - 1)] == [[0], [0, 1], [1, 2]]
    assert max(map(len, on_disk)) == 2
    assert on_disk[-1][-1] == last


def test_a_resumed_run_and_a_short_one_download_only_their_shards(data, remote, load, server, uri, on_disk, tmp_path):
    batch_plan = remote(server, uri)
    data, per = without_texts(data, batch_plan, tmp_path), batch_plan.tokens.steps_per_shard
    train(load(), data, tmp_path / "shards", stop_at=2 * per, s3_addressing_style="path")
    assert {index for indices in on_disk for index in indices} == {0, 1, 2}, "the next step was read ahead"
    on_disk.clear()
    shutil.rmtree(tmp_path / "shards" / "tokens")
    checkpoint = tmp_path / "shards" / "trainer" / f"checkpoint-{2 * per}"
    steps = {"max_steps": 3 * per, "s3_addressing_style": "path"}
    train(load(), data, tmp_path / "shards", resume=str(checkpoint), **steps)
    assert {index for indices in on_disk for index in indices} == {2}


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_shard_that_is_not_whole_in_its_store_is_an_error_of_the_storage(
    data, remote, load, moto, reach, tmp_path, damage
):
    uri = reach(moto)
    batch_plan = remote(moto, uri)
    key = f"{prefix_of(uri)}000001.arrow"
    client = moto.client()
    content = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        client.delete_object(Bucket=BUCKET, Key=key)
    else:
        client.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    with pytest.raises(StorageError, match=rf"^MNRL_TRAIN_DATA: {uri}/000001.arrow ") as raised:
        train(load(), without_texts(data, batch_plan, tmp_path), tmp_path / "run", s3_addressing_style="path")
    assert raised.value.code == 69


def test_processes_of_a_machine_download_a_shard_once(remote, moto, reach, tmp_path):
    uri = reach(moto)
    batch_plan = remote(moto, uri)
    with proxied(moto, Fault("delay", where="^GET", times=1, seconds=0.5)) as proxy:
        reach(proxy)
        ranks = [ShardFiles(batch_plan.tokens, 12, tmp_path / "shared", "path") for _ in range(4)]
        parallel(lambda files: files.begin_step(0), ranks)
        assert sum(request.startswith("GET") and "000000.arrow" in request for request in proxy.seen) == 1


def test_two_ranks_train_on_the_same_rows_and_one_resumes(two_ranks, data, shards, load, tmp_path):
    weights = {}
    for name, batch_plan in (("texts", data.batch_plan), ("shards", shards)):
        folder = tmp_path / name
        folder.mkdir()
        load().save_pretrained(str(folder / "model"), create_model_card=False)
        write_record(folder / "pairs.json", data.pairs)
        write_record(folder / "batching.json", batch_plan)
        (folder / "settings.json").write_text(SETTINGS.model_dump_json(), encoding="utf-8")
        stop = shards.tokens.steps_per_shard + 1
        found = [two_ranks.ask("train", folder, stop), train_rank(folder, 0)]
        checkpoint = folder / "trainer" / f"checkpoint-{stop}" / "model.safetensors"
        log = (folder / "training_log.jsonl").read_text().splitlines()
        weights[name] = found, checkpoint.read_bytes(), [json.loads(line)["loss"] for line in log]
    assert weights["shards"] == weights["texts"]
    assert weights["shards"][0][1]["digest"] == data_order_digest(np.load(data.batch_plan.plan))


def publish(folder):
    write_manifest(folder, {})
    marker = {"manifest_sha256": sha256_of([folder / "manifest.json"])}
    (folder / "_SUCCESS").write_text(json.dumps(marker))


def usable(model, settings, data, batch_plan):
    """The plan that a worker trains on, of a published data set."""
    folder = data.pairs.path.parent
    publish(folder)
    return with_usable_tokens(
        model, WorkerTask(settings, "", folder, folder, (), {}, data.pairs, batch_plan)
    ).batch_plan


CHANGES = {
    "prompt": lambda model: model.prompts.update(query="find "),
    "length": lambda model: setattr(model, "max_seq_length", 12),
    "case": lambda model: setattr(model.tokenizer.backend_tokenizer, "normalizer", normalizers.NFC()),
    "words": lambda model: model.tokenizer.add_tokens(["parking"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_tokenizer_falls_back_to_texts_and_says_why(data, shards, load, caplog, change):
    assert usable(load(), SETTINGS, data, shards) == shards
    other = load()
    CHANGES[change](other)
    with caplog.at_level(logging.INFO, "mnrl_job"):
        assert usable(other, SETTINGS, data, shards) == data.batch_plan
    assert "another tokenizer, maximum length or prompt" in caplog.text


def test_texts_that_are_not_those_that_were_prepared_are_refused(data, shards, load):
    folder = data.pairs.path.parent
    path = data.pairs.path.rename(folder / "train.arrow")
    pairs = replace(data.pairs, path=path)
    publish(folder)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    settings = SETTINGS.model_copy(update={"num_hard_negatives": 1})
    with pytest.raises(DataError, match=r"is not what was published:\ntrain\.arrow: has SHA-256 "):
        with_usable_tokens(load(), WorkerTask(settings, "", folder, folder, (), {}, pairs, shards))


@pytest.mark.parametrize("changes", [{"num_hard_negatives": 1}, {"loss": "guided"}])
def test_mining_and_a_guide_read_texts(data, shards, load, caplog, changes):
    settings = SETTINGS.model_copy(update=changes)
    with caplog.at_level(logging.INFO, "mnrl_job"):
        assert usable(load(), settings, data, shards) == data.batch_plan
    assert next(iter(changes)).upper() in caplog.text


def test_processes_write_the_same_shards_as_one(data, shards, load, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "usable_cpus", lambda: 2)
    written = write_shards(load(), data.pairs, data.batch_plan, tmp_path / "others")
    assert replace(written, uri=shards.tokens.uri) == shards.tokens


def test_loader_processes_read_shards_as_well(data, shards, load, tmp_path, monkeypatch):
    """As they do for a GPU."""

    def args_with_loaders(*arguments):
        args = build_training_args(*arguments)
        args.dataloader_num_workers, args.dataloader_prefetch_factor = 2, 1
        return args

    expected = train(load(), data, tmp_path / "texts")
    build_training_args = trainer_module.build_training_args
    monkeypatch.setattr(trainer_module, "build_training_args", args_with_loaders)
    found = train(load(), without_texts(data, shards, tmp_path), tmp_path / "shards")
    assert torch.equal(found[0], expected[0])


def test_a_model_that_reads_no_token_ids_has_no_shards(data, static_model, tmp_path):
    assert write_shards(static_model, data.pairs, data.batch_plan, tmp_path / "none") is None


def test_what_shards_record_of_the_rows_is_what_their_texts_have(data, shards, load):
    collate = build_collator(load(), data.pairs, default_chunk_budget(torch.device("cpu")))
    collate.row_texts = replace(collate.row_texts, given=read_negatives(data.batch_plan.labels))
    plan = np.load(data.batch_plan.plan)
    files = ShardFiles(shards.tokens, len(plan), Path("none"), "auto")
    of_shards = ShardCollator(load(), files, BATCH, collate.budget)
    for ranks in (1, 2, 4, 8):
        assert max_tokens_per_rank(of_shards, plan, ranks) == max_tokens_per_rank(collate, plan, ranks)
    assert max_tokens_per_rank(of_shards, plan, 3) == max_tokens_per_rank(collate, plan, 2)
    assert of_shards.longest == collate.longest
    assert shards.tokens.negatives_per_step == read_negatives(data.batch_plan.labels).counts[plan].sum() / len(plan)


# Runs on prepared data do the same in forked workers.
@pytest.mark.slow
def test_workers_write_the_shards_train_on_them_alone_and_try_them(data, tiny_model, tmp_path):
    task = WorkerTask(SETTINGS, str(tiny_model), tmp_path, tmp_path / "out", (), {}, data.pairs, data.batch_plan)
    timeouts = WorkerTimeouts(hang_seconds=60, grace_seconds=30)
    written = run_workers("tokenize", task, Devices((), 1), timeouts, "tokenize.json", Tokenized)
    assert [path.name for path in (tmp_path / "out" / "tokens").iterdir()] == ["000000.arrow"]
    assert written.lengths.columns["negatives"]["p100"] > 3
    data = without_texts(data, replace(data.batch_plan, tokens=written.tokens), tmp_path)
    task = replace(task, pairs=data.pairs, batch_plan=data.batch_plan)
    found = run_workers("train", task, Devices((), 1), timeouts, "result.json", WorkerResult)
    assert (found.training.steps, found.training.rows_used, found.lengths) == (12, ROWS, None)
    tried = run_workers("trial_run", task, Devices((), 1), timeouts, "trial_run.json", TrialRun)
    assert tried.step_seconds > 0


def test_the_largest_part_of_a_step_is_known_for_each_number_of_ranks():
    tokens = np.random.default_rng(0).lognormal(4, 1, (5, 12)).astype(np.int64)
    slices = largest_slices(tokens)
    for power, ranks in enumerate((1, 2, 4, 8)):
        parts = [step[rank_slice(12, rank, ranks)].sum() for step in tokens for rank in range(ranks)]
        assert slices[power] == max(parts)
