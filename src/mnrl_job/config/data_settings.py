"""Settings of the inputs, the output, and the preparation of the data."""

from typing import Literal

from pydantic import BaseModel

from mnrl_job.config.setting_types import (
    EvalSources,
    Names,
    RowFilterSetting,
    RunId,
    SimilarityThreshold,
    Sources,
    setting,
)

PLACES = "comma separated; a file, folder or glob, local or s3://"
SOURCES = f"one or more of uri, name=uri or name:weight=uri, {PLACES}"
EVAL_SOURCES = f"one or more of uri or name=uri, {PLACES}"


# The run id that stands for a generated one.
NEW = "new"


class DataSettings(BaseModel):
    """What a run reads and writes, and which rows it uses."""

    train_data: Sources = setting((), "training pairs", SOURCES)
    eval_data: EvalSources = setting(
        (), "eval sets; if empty, part of the training data is held out (MNRL_HOLDOUT_RATIO)", EVAL_SOURCES
    )
    base_model: str = setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "model to fine-tune",
        "a Hub id (id@revision), a folder or an s3:// prefix",
        min_length=1,
    )
    output: str = setting("", "where to write the run, as OUTPUT/RUN_ID/", "a folder or an s3:// prefix")
    run_id: RunId = setting(
        "",
        "name of the run; the same name resumes it; if empty, the unfinished run with the same settings and inputs is "
        "resumed if there is one, else a name is generated; new always generates one",
        "letters, digits, '.', '_' and '-', at most 128, or new",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$",
    )
    prepared: str = setting(
        "",
        "where prepare writes data sets, and where train and check look for them; OUTPUT/prepared if empty",
        "a folder or an s3:// prefix",
    )
    work_dir: str = setting(
        "", "local scratch, where later attempts find fetched inputs again; a temporary folder if empty", "a folder"
    )
    anchor_column: str = setting("", "column of the anchors (queries); detected by name if empty", "a column name")
    positive_column: str = setting(
        "", "column of the positives (documents); detected by name if empty", "a column name"
    )
    negative_columns: Names = setting(
        (),
        "columns of hard negatives; negative, negative_1, … are detected by name",
        "column names, comma separated",
    )
    row_filter: RowFilterSetting | None = setting(
        None,
        "filter for training rows; required if a column such as label or split varies",
        "conditions such as label>=1 (operators = != >= <= > <) joined by 'and', or all for every row",
    )
    max_bad_row_ratio: float = setting(
        0.0,
        "fraction of unusable rows tolerated in the training data and in each part of an eval set",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    near_duplicate_threshold: SimilarityThreshold = setting(
        0.9,
        "Jaccard similarity of word pairs from which two documents count as duplicates",
        "a number above 0.5 and up to 1, or off",
    )
    leakage_policy: Literal["remove", "fail", "keep"] = setting(
        "remove", "what to do with training pairs that also occur in an eval set", "remove, fail or keep"
    )
    holdout_ratio: float = setting(
        0.1, "fraction of the training data held out if there is no eval data", "a number from 0 to 0.9", ge=0, le=0.9
    )
    holdout_max_queries: int = setting(
        10_000, "maximum number of queries held out if there is no eval data", "an integer of at least 1", ge=1
    )
