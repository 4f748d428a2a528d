"""Reads a prepared data set, after checking that it is whole and suits the run."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings, env_name
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.launch.worker_task import ROW_FILES
from mnrl_job.pipeline.data_requirements import check_batch_size, check_hardness
from mnrl_job.pipeline.find_prepared import RECORD, TOKENIZER_SETTINGS, location_of, prepared_settings
from mnrl_job.pipeline.prepared import Prepared
from mnrl_job.runs.verify import read_run_manifest, verify_run
from mnrl_job.storage import LocalStore, Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.uri import join
from mnrl_job.system.logs import log
from mnrl_job.system.record_files import relocated

# What every run reads at its start. Of a remote data set with tokens the worker fetches the others, if it needs them.
EVAL_SETS = ("eval", "selection")
READ_AT_START = (RECORD, "plan.npy", *EVAL_SETS)


def load_prepared(store: Store, settings: Settings, scratch: Path, workers: int) -> Prepared:
    """Read a prepared data set: a local one in place, of a remote one what this run needs, to `scratch`.

    Raises:
        NotFound: it was never finished.
        DataError: it is damaged.
        SettingsError: it was prepared with other settings, or the batch does not suit the `workers`.
    """
    read_run_manifest(store)  # one that was never finished is told by that
    prepared = read_record_of(store)
    refuse_other_settings(settings, prepared, store.label)
    check_batch_size(settings.batch_size, workers)
    needed = READ_AT_START + (() if prepared.batch_plan.tokens else ROW_FILES)
    folder = verify_run(store, scratch / "prepared", needed, others_by_size=True)

    def place(path: Path) -> Path:
        """Eval sets are copied, since token ids are cached beside them; but not their modes, which may be read-only."""
        if path.parts[0] not in EVAL_SETS:
            return folder / path
        (scratch / path).mkdir(parents=True)
        for file in (folder / path).iterdir():
            shutil.copyfile(file, scratch / path / file.name)
        return scratch / path

    prepared = relocated(prepared, place)
    check_hardness(settings.hardness, settings.num_hard_negatives, prepared.pairs)
    log(f"using the {prepared.pairs.rows} pairs of the prepared data set {location_of(store)}")
    plan = cut_plan(prepared.batch_plan, settings.max_steps, scratch)
    if plan.tokens:
        uri = str(folder) if isinstance(store, LocalStore) else location_of(store)
        plan = replace(plan, tokens=replace(plan.tokens, uri=join(uri, plan.tokens.uri)))
    return replace(prepared, batch_plan=plan)


def read_record_of(store: Store) -> Prepared:
    """Read `prepared.json`.

    Raises:
        DataError: it is missing or damaged, or of another version of this program.
    """
    try:
        return TypeAdapter(Prepared).validate_json(read_bytes(store, RECORD) or b"")
    except ValidationError as error:
        problem = f"{error.errors()[0]['msg']} at {'.'.join(map(str, error.errors()[0]['loc'])) or 'its start'}"
        raise DataError(f"{store.label}/{RECORD}: {problem}; prepare the data again with this version") from error


def refuse_other_settings(settings: Settings, prepared: Prepared, label: str) -> None:
    """Refuse a data set that was prepared with other settings; those of the tokenizer may differ.

    Raises:
        SettingsError: it was. All differences are named.
    """
    before, now = prepared.settings, prepared_settings(settings)
    free = {"train_data", "eval_data", *TOKENIZER_SETTINGS}
    differences = [
        f"{env_name(name)} was {before.get(name) or 'empty'}, is {now.get(name) or 'empty'}"
        for name in sorted((before.keys() | now.keys()) - free)
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise SettingsError(
            f"{label} was prepared with other settings: {'; '.join(differences)}; set them so, or prepare again"
        )


def cut_plan(plan: BatchPlan, max_steps: int | None, folder: Path) -> BatchPlan:
    """The plan of a run that ends at `max_steps`: the same as if it had been made for it."""
    if max_steps is None or max_steps >= plan.steps:
        return plan
    np.save(folder / "plan.npy", np.load(plan.plan, mmap_mode="r")[:max_steps])
    epochs = tuple(start for start in plan.epochs if start < max_steps)
    return replace(plan, plan=folder / "plan.npy", steps=max_steps, epochs=epochs)
