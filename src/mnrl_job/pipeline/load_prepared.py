"""Reads a prepared data set, after checking that it is whole and suits the run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings, env_name
from mnrl_job.data.evalset import EvalSet
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.pipeline.data_requirements import check_batch_size, check_hardness
from mnrl_job.pipeline.find_prepared import RECORD, TOKENIZER_SETTINGS, location_of, prepared_settings
from mnrl_job.pipeline.prepared import Prepared, PreparedRecord, relocated
from mnrl_job.runs.verify import read_run_manifest, verify_run
from mnrl_job.storage import LocalStore, Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.uri import join
from mnrl_job.system.logs import log

# What every run reads at its start. Of a remote data set with tokens the worker fetches the others, if it needs them.
READ_AT_START = (RECORD, "plan.npy", "eval/", "selection/")
ROW_FILES = ("train.arrow", "labels.arrow", "non_minable.npy")


def load_prepared(store: Store, settings: Settings, scratch: Path, workers: int) -> Prepared:
    """Read a prepared data set: a local one in place, of a remote one what this run needs, to `scratch`.

    Raises:
        NotFound: it was never finished.
        DataError: it is damaged.
        SettingsError: it was prepared with other settings, or the batch does not suit the `workers`.
    """
    refuse_other_sizes(store)
    record = read_record_of(store)
    refuse_other_settings(settings, record, store.label)
    check_batch_size(settings.batch_size, workers)
    needed = READ_AT_START + (() if record.prepared.batch_plan.tokens else ROW_FILES)
    folder = verify_run(store, scratch / "prepared", needed)
    prepared = relocated(record.prepared, folder.joinpath)
    check_hardness(settings.hardness, settings.num_hard_negatives, prepared.pairs)
    log(f"using the {prepared.pairs.rows} pairs of the prepared data set {location_of(store)}")
    plan = cut_plan(prepared.batch_plan, settings.max_steps, scratch)
    if plan.tokens:
        uri = str(folder) if isinstance(store, LocalStore) else location_of(store)
        plan = replace(plan, tokens=replace(plan.tokens, uri=join(uri, plan.tokens.uri)))
    prepared = replace(prepared, batch_plan=plan)
    return with_own_eval_sets(prepared, scratch)


def read_record_of(store: Store) -> PreparedRecord:
    """Read `prepared.json`.

    Raises:
        DataError: it is missing or damaged, or of another version of this program.
    """
    try:
        return TypeAdapter(PreparedRecord).validate_json(read_bytes(store, RECORD) or b"")
    except ValidationError as error:
        problem = f"{error.errors()[0]['msg']} at {'.'.join(map(str, error.errors()[0]['loc'])) or 'its start'}"
        raise DataError(f"{store.label}/{RECORD}: {problem}; prepare the data again with this version") from error


def refuse_other_settings(settings: Settings, record: PreparedRecord, label: str) -> None:
    """Refuse a data set that was prepared with other settings; those of the tokenizer may differ.

    Raises:
        SettingsError: it was. All differences are named.
    """
    now = prepared_settings(settings)
    free = {"train_data", "eval_data", *TOKENIZER_SETTINGS}
    differences = [
        f"{env_name(name)} was {show(value)}, is {show(now.get(name))}"
        for name in sorted((record.settings.keys() | now.keys()) - free)
        if (value := record.settings.get(name)) != now.get(name)
    ]
    if differences:
        raise SettingsError(
            f"{label} was prepared with other settings: {'; '.join(differences)}; set them so, or prepare again"
        )


def show(value: Any) -> str:
    """A setting's JSON value as text."""
    if isinstance(value, list):
        return ",".join(item["uri"] if isinstance(item, dict) else str(item) for item in value) or "empty"
    return "empty" if value in (None, "") else str(value)


def refuse_other_sizes(store: Store) -> None:
    """Compare the size of every file with the manifest; the content of large ones is checked where it is read.

    Raises:
        NotFound: the data set was never finished.
        DataError: a file is missing, or has another size.
    """
    sizes = {entry.key: entry.size for entry in store.list_objects()}
    for name, file in read_run_manifest(store)["files"].items():
        if sizes.get(name) != file["bytes"]:
            problem = f"has {sizes[name]} bytes, the manifest says {file['bytes']}" if name in sizes else "is missing"
            raise DataError(f"{store.label}/{name} {problem}; restore it, or delete the data set and prepare it again")


def cut_plan(plan: BatchPlan, max_steps: int | None, folder: Path) -> BatchPlan:
    """The plan of a run that ends at `max_steps`: the same as if it had been made for it."""
    if max_steps is None or max_steps >= plan.steps:
        return plan
    np.save(folder / "plan.npy", np.load(plan.plan, mmap_mode="r")[:max_steps])
    epochs = tuple(start for start in plan.epochs if start < max_steps)
    return replace(plan, plan=folder / "plan.npy", steps=max_steps, epochs=epochs)


def with_own_eval_sets(prepared: Prepared, scratch: Path) -> Prepared:
    """The same data with eval sets below `scratch`: token ids are cached beside them."""

    def copied(eval_set: EvalSet, parent: str) -> EvalSet:
        folder = scratch / parent / eval_set.folder.name
        folder.mkdir(parents=True)
        for file in eval_set.folder.iterdir():  # not their modes: a data set may be read-only
            shutil.copyfile(file, folder / file.name)
        return replace(eval_set, folder=folder)

    split = prepared.selection_split
    return replace(
        prepared,
        eval_sets=tuple(copied(each, "eval") for each in prepared.eval_sets),
        selection_split=copied(split, "selection") if split else None,
    )
