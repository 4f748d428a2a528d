"""Finds the prepared data set that a run can use instead of preparing its data."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version

from mnrl_job.config.setting_types import PREPARED
from mnrl_job.config.settings import Settings, as_text
from mnrl_job.data.inputs import Listing, LocatedInputs
from mnrl_job.data.sources import ResolvedSource
from mnrl_job.errors import SettingsError
from mnrl_job.runs.publish import MARKER
from mnrl_job.storage import Store, open_store
from mnrl_job.storage.uri import join
from mnrl_job.system.json_text import sha256_of_json

RECORD = "prepared.json"
# Which rows share a batch, and the tokens of a text, may change with these.
PACKAGES = ("mnrl-job", "numpy", "rensa", "tokenizers", "transformers", "sentence-transformers")
# Settings that decide the rows and their batches; those of the tokenizer decide the tokens only.
DATA_SETTINGS = (
    "train_data",
    "eval_data",
    "anchor_column",
    "positive_column",
    "negative_columns",
    "row_filter",
    "max_bad_row_ratio",
    "near_duplicate_threshold",
    "leakage_policy",
    "holdout_ratio",
    "holdout_max_queries",
    "batch_size",
    "epochs",
    "seed",
)
TOKENIZER_SETTINGS = ("base_model", "max_seq_length", "query_prompt", "document_prompt")


def prepared_settings(settings: Settings) -> dict[str, str]:
    """The settings that decide a prepared data set, as texts."""
    chosen = {name: as_text(getattr(settings, name)) for name in (*DATA_SETTINGS, *TOKENIZER_SETTINGS)}
    # These decide whether pairs are kept to select weights on.
    chosen["weight_interpolation"] = "auto" if settings.weight_interpolation == "auto" else "a number or off"
    chosen["eval_interval"] = "unset" if settings.eval_interval is None else "set"
    return chosen


def prepared_store(settings: Settings, listing: Mapping[str, Listing]) -> Store:
    """Where the data set of these settings and inputs is, or would be.

    Raises:
        SettingsError: `MNRL_PREPARED`, or `MNRL_OUTPUT`, is malformed.
    """
    inputs = {name: files for name, files in listing.items() if name.startswith(("train/", "eval/", "base_model"))}
    versions = {package: version(package) for package in PACKAGES}
    identity = sha256_of_json({"settings": prepared_settings(settings), "inputs": inputs, "versions": versions})
    variable = "MNRL_PREPARED" if settings.prepared else "MNRL_OUTPUT"
    uri = join(settings.prepared or join(settings.output, PREPARED), identity[:16])
    return open_store(uri, variable, settings.s3_addressing_style)


def with_prepared(settings: Settings, located: LocatedInputs, listing: Mapping[str, Listing]) -> LocatedInputs:
    """The inputs with a prepared data set instead of training data and eval sets, if there is one.

    It is the one that `MNRL_TRAIN_DATA` names, or one of the same inputs and settings.

    Raises:
        SettingsError: `MNRL_TRAIN_DATA` names a prepared data set beside something else.
        JobError: the storage does not answer.
    """
    named = next((source.uri for source in located.train if is_prepared(source)), None)
    if named and (len(located.train) > 1 or located.train[0].weight is not None or settings.eval_data):
        raise SettingsError(
            f"MNRL_TRAIN_DATA: {named} is a prepared data set, which stands alone; remove the other sources, "
            "the weight and MNRL_EVAL_DATA, or prepare them together"
        )
    if named:
        store = open_store(named, "MNRL_TRAIN_DATA", settings.s3_addressing_style)
    else:
        store = prepared_store(settings, listing)
    return replace(located, train=(), evals=(), prepared=store) if named or store.stat(MARKER) else located


def location_of(store: Store) -> str:
    """The URI of a data set, without the setting that names it."""
    return store.label.partition(": ")[2]


def is_prepared(source: ResolvedSource) -> bool:
    """Whether a source is the folder or prefix of a prepared data set."""
    return source.root / RECORD in source.files or any(entry.key == RECORD for entry in source.entries)
