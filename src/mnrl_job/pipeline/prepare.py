"""The `prepare` command, step by step."""

from dataclasses import dataclass, replace
from pathlib import Path

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import LocatedInputs, locate_inputs
from mnrl_job.data.listing import list_inputs
from mnrl_job.errors import SettingsError
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.find_prepared import RECORD, is_prepared, location_of, prepared_store
from mnrl_job.pipeline.inputs import fetch_if_room, input_uris
from mnrl_job.pipeline.open_attempt import open_attempt, refuse_several_nodes
from mnrl_job.pipeline.preparation import read_and_prepare
from mnrl_job.pipeline.prepared import Prepared
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.report.audit import with_lengths
from mnrl_job.report.json_file import write_json
from mnrl_job.runs.publish import already_published, publish_folder
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import find_devices
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import relocated, write_record
from mnrl_job.worker.results import Tokenized


@dataclass(frozen=True, slots=True)
class PreparedDataSet:
    """A published data set. `pairs` and `steps` are None where it was published before."""

    uri: str
    pairs: int | None = None
    steps: int | None = None


def prepare(settings: Settings) -> PreparedDataSet:
    """Read, filter, deduplicate, find leaks, hold out, audit, plan and tokenize once; publish the result for `train`.

    It has whole epochs: `MNRL_MAX_STEPS` is left to the runs. A failure leaves nothing: nobody has named the folder.

    Raises:
        JobError: the data could not be prepared or published.
    """
    refuse_several_nodes(settings, "prepare")
    settings = settings.model_copy(update={"max_steps": None, "guide_model": "", "run_id": ""})
    located = locate_data(settings)
    uri = location_of(prepared_store(settings, list_inputs(located)))
    folder, _, name = uri.rpartition("/")
    settings = settings.model_copy(update={"output": folder})
    with open_attempt(settings, name=name) as attempt:
        store = attempt.store()
        if already_published(store, name):
            return PreparedDataSet(uri)
        probe(store)
        attempt.history.update(store)
        timer = PhaseTimer(attempt.status)
        devices = find_devices(1)
        with start_workers("tokenize", attempt.scratch, devices, attempt.timeouts) as workers:
            with timer(Phase.FETCH):
                inputs = fetch_if_room(settings, attempt, devices, located, trains=False)
            with timer(Phase.PREPARE):
                prepared = read_and_prepare(settings, inputs, attempt.staging, attempt.scratch, workers=1)
                prepared = with_pairs_in(attempt.staging, prepared)
            task = worker_task(settings, attempt, inputs, (), prepared.pairs, prepared.batch_plan)
            with timer(Phase.TOKENIZE):
                tokenized = workers.run(task, "tokenize.json", Tokenized)
        prepared = replace(prepared, audit=with_lengths(prepared.audit, tokenized.lengths))
        write_prepared(attempt.staging, prepared, tokenized.tokens)
        attempt.status.enter_phase(Phase.PUBLISH)
        # The name of a data set stands for its settings and inputs.
        publish_folder(attempt.store(), attempt.staging, {"settings_sha256": name, "seconds": timer.seconds})
        attempt.status.finish()
    return PreparedDataSet(uri, prepared.pairs.rows, prepared.batch_plan.steps)


def locate_data(settings: Settings) -> LocatedInputs:
    """Find the inputs to prepare.

    Raises:
        SettingsError: the data is already prepared.
        JobError: an input is missing or denied.
    """
    located = locate_inputs(input_uris(settings))
    for source in located.train:
        if is_prepared(source):
            raise SettingsError(f"MNRL_TRAIN_DATA: {source.uri} is already prepared; give it to train")
    return located


def with_pairs_in(folder: Path, prepared: Prepared) -> Prepared:
    """The same with the pairs in `folder`, also where all pairs that were read are used."""
    path = prepared.pairs.path
    if path.parent != folder:
        path = path.rename(folder / "train.arrow")
    return replace(prepared, read=replace(prepared.read, path=path), pairs=replace(prepared.pairs, path=path))


def write_prepared(folder: Path, prepared: Prepared, tokens: TokenShards | None) -> None:
    """Complete the folder of a prepared data set."""
    write_json(folder / "audit.json", prepared.audit)
    prepared = relocated(prepared, lambda path: path.relative_to(folder))
    if tokens:
        tokens = replace(tokens, uri=str(Path(tokens.uri).relative_to(folder)))
    prepared = replace(prepared, batch_plan=replace(prepared.batch_plan, tokens=tokens))
    write_record(folder / RECORD, prepared)
