"""The `prepare` command, step by step."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.config.setting_types import PREPARED
from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import Listing, locate_inputs
from mnrl_job.data.listing import list_inputs
from mnrl_job.errors import JobError, SettingsError
from mnrl_job.launch.nodes import find_nodes
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.find_prepared import RECORD, is_prepared, prepared_settings, prepared_store, prepared_uri
from mnrl_job.pipeline.inputs import get_inputs, input_uris
from mnrl_job.pipeline.open_attempt import open_attempt
from mnrl_job.pipeline.prepare import read_and_prepare
from mnrl_job.pipeline.prepared import Prepared, PreparedRecord, relocated
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.report.audit import with_lengths
from mnrl_job.report.json_file import write_json
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.publish import already_published, clear_unfinished, commit_run, remove_leftovers, upload
from mnrl_job.runs.publish_lease import acquire_lease
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import find_devices
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.results import Tokenized


@dataclass(frozen=True, slots=True)
class PreparedDataSet:
    """A published data set. `pairs` and `steps` are None where it was published before."""

    uri: str
    pairs: int | None = None
    steps: int | None = None


def prepare_data_set(settings: Settings) -> PreparedDataSet:
    """Read, filter, deduplicate, find leaks, hold out, audit, plan and tokenize once; publish the result for `train`.

    It has whole epochs: `MNRL_MAX_STEPS` is left to the runs.

    Raises:
        JobError: the data could not be prepared or published.
    """
    listing = list_data(settings)
    prepared_store(settings, listing)  # refuses a malformed MNRL_PREPARED; an attempt knows MNRL_OUTPUT only
    folder, _, name = prepared_uri(settings, listing).rpartition("/")
    own = settings.model_copy(update={"output": folder, "run_id": name, "max_steps": None, "guide_model": ""})
    with open_attempt(own) as attempt:
        store = attempt.store()
        if already_published(store, name):
            return PreparedDataSet(attempt.run_uri)
        probe(store)
        attempt.history.update(store)
        timer = PhaseTimer(attempt.status)
        devices = find_devices(1)
        with start_workers("tokenize", attempt.scratch, devices, attempt.timeouts) as workers:
            with timer(Phase.FETCH):
                inputs = get_inputs(own, attempt, devices, trains=False)
            with timer(Phase.PREPARE):
                prepared = read_and_prepare(own, inputs, attempt.staging, attempt.scratch, workers=1)
                prepared = with_pairs_in(attempt.staging, prepared)
            task = worker_task(own, attempt, inputs, (), prepared.pairs, prepared.batch_plan)
            with timer(Phase.TOKENIZE):
                tokenized = workers.run(task, "tokenize.json", Tokenized)
        prepared = replace(prepared, audit=with_lengths(prepared.audit, tokenized.lengths))
        write_prepared(attempt.staging, prepared, tokenized.tokens, settings, listing)
        publish(attempt, timer)
    return PreparedDataSet(attempt.run_uri, prepared.pairs.rows, prepared.batch_plan.steps)


def list_data(settings: Settings) -> dict[str, Listing]:
    """The listing of the inputs to prepare.

    Raises:
        SettingsError: there are several nodes, or the data is already prepared.
        JobError: an input is missing or denied.
    """
    nodes = find_nodes(settings.num_nodes, settings.node_rank, settings.master_addr, PREPARED, os.environ)
    if not nodes.is_single:
        raise SettingsError(
            f"MNRL_NUM_NODES: there are {nodes.max_nodes} nodes, but prepare works on one; start it on one"
        )
    located = locate_inputs(input_uris(settings))
    for source in located.train:
        if is_prepared(source):
            raise SettingsError(f"MNRL_TRAIN_DATA: {source.uri} is already prepared; give it to train")
    return list_inputs(located)


def with_pairs_in(folder: Path, prepared: Prepared) -> Prepared:
    """The same with the pairs in `folder`, also where all pairs that were read are used."""
    if prepared.pairs.path.parent == folder:
        return prepared
    path = prepared.pairs.path.rename(folder / "train.arrow")
    return replace(prepared, pairs=replace(prepared.pairs, path=path))


def write_prepared(
    folder: Path, prepared: Prepared, tokens: TokenShards | None, settings: Settings, listing: Mapping[str, Listing]
) -> None:
    """Complete the folder of a prepared data set."""
    write_json(folder / "audit.json", prepared.audit)
    relative = relocated(prepared, lambda path: path.relative_to(folder))
    if tokens:
        tokens = replace(tokens, uri=str(Path(tokens.uri).relative_to(folder)))
        relative = replace(relative, batch_plan=replace(relative.batch_plan, tokens=tokens))
    write_record(folder / RECORD, PreparedRecord(prepared_settings(settings), dict(listing), relative))


def publish(attempt: Attempt, timer: PhaseTimer) -> None:
    """Publish the staged files, unless another attempt was first."""
    store = attempt.store()
    with acquire_lease(store) as lease:
        if not already_published(store, attempt.run_id):
            clear_unfinished(store, lease)
            with timer(Phase.PUBLISH):
                files = upload(attempt.staging, store, lease, {})
            # The name of a data set stands for its settings and inputs.
            facts = {"settings_sha256": attempt.run_id, "seconds": timer.seconds}
            commit_run(store, lease, attempt.staging, facts, files)
    attempt.status.finish()
    with suppress(JobError):  # the data set is complete
        remove_leftovers(store)
