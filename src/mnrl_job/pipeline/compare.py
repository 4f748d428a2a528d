"""The `compare` command: published runs side by side, on the same queries."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.evaluation.results import QueryResult
from mnrl_job.evaluation.significance import compare
from mnrl_job.report.comparison_report import RunPair, comparison_page, pair_metrics
from mnrl_job.runs.attempt import work_dir
from mnrl_job.runs.verify import verify_run
from mnrl_job.storage import open_store
from mnrl_job.system.files import atomic_write, scratch_folder, writable_folder
from mnrl_job.system.logs import warn
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import raise_on_signal


@dataclass(frozen=True, slots=True)
class _Run:
    """A run's metrics, and its folder with the rankings; `eval_sets` has the name of each by its SHA-256."""

    uri: str
    folder: Path
    metrics: dict[str, Any]
    eval_sets: dict[str, str]

    def rankings(self, digest: str) -> Iterator[dict[str, Any]]:
        with (self.folder / "rankings" / f"{self.eval_sets[digest]}.jsonl").open("rb") as handle:
            yield from map(json.loads, handle)


def compare_runs(uris: Sequence[str], page: Path, settings: Settings) -> list[RunPair]:
    """Compare published runs with the first one on the eval sets that all have, and write a page.

    Raises:
        SettingsError: there are fewer than two, one is given twice, or the page cannot be written there.
        DataError: they have no eval set or other metrics, or one is damaged.
        JobError: one is missing or was never finished, or the storage does not answer.
    """
    if len(uris) < 2 or len(set(uris)) < len(uris):
        given = ", ".join(uris) or "none"
        raise SettingsError(f"RUN: give two or more different runs (OUTPUT/RUN_ID); given: {given}")
    with raise_on_signal(), scratch_folder(work_dir(settings.work_dir)) as scratch, translate_disk_full(scratch):
        writable_folder(page.absolute().parent, "--output")
        first, *others = runs = [_fetch(uri, settings, scratch / str(number)) for number, uri in enumerate(uris)]
        shared = _shared_eval_sets(runs)
        pairs = [_compare(first, other, shared) for other in others]
        atomic_write(page, comparison_page(pairs).encode())
        return pairs


def _fetch(uri: str, settings: Settings, scratch: Path) -> _Run:
    store = open_store(uri, "RUN", settings.s3_addressing_style)
    folder = verify_run(store, scratch, ("metrics.json", "rankings/"))
    if not (folder / "metrics.json").exists():
        raise SettingsError(f"{store.label} has no metrics.json; give the URI of a run of train or evaluate")
    metrics = json.loads((folder / "metrics.json").read_bytes())
    return _Run(uri, folder, metrics, {data["sha256"]: name for name, data in metrics["data"]["eval"].items()})


def _shared_eval_sets(runs: Sequence[_Run]) -> list[str]:
    """The SHA-256 of each eval set that all runs have, the first run's primary one first. The others are logged.

    Raises:
        DataError: there is none.
    """
    primary = (runs[0].metrics.get("primary_metric") or {"name": ""})["name"].rpartition(".")[0]
    ordered = sorted(runs[0].eval_sets, key=lambda digest: runs[0].eval_sets[digest] != primary)
    shared = [digest for digest in ordered if all(digest in run.eval_sets for run in runs)]
    for run in runs:
        if others := [name for digest, name in run.eval_sets.items() if digest not in shared]:
            warn(f"{run.uri}: not comparing {', '.join(others)}, as not all runs have it with the same SHA-256")
    if not shared:
        raise DataError(
            f"RUN: {', '.join(run.uri for run in runs)} have no eval set in common; evaluate the models on one"
        )
    return shared


def _compare(first: _Run, other: _Run, shared: Sequence[str]) -> RunPair:
    """Compare two runs on these eval sets.

    Raises:
        DataError: they have other queries or metrics.
    """
    rankings = {first.eval_sets[digest]: _join(first, other, digest) for digest in shared}
    evaluation = {}
    for name, lines in rankings.items():
        before, after = (
            [QueryResult(line["query_id"], **line[side]) for line in lines] for side in ("before", "after")
        )
        evaluation[name] = asdict(compare(name, before, after, Settings().seed))
    return RunPair((first.uri, other.uri), rankings, pair_metrics(first.metrics, evaluation))


def _join(first: _Run, other: _Run, digest: str) -> list[dict[str, Any]]:
    """The final results of each query in both runs, in the form of `rankings/`."""
    results = {line["query_id"]: line.get("after") or line["before"] for line in other.rankings(digest)}
    lines = [line | {"before": line.get("after") or line["before"]} for line in first.rankings(digest)]
    if {line["query_id"] for line in lines} != results.keys() or any(
        line["before"]["metrics"].keys() != results[line["query_id"]]["metrics"].keys() for line in lines
    ):
        raise DataError(
            f"RUN: {first.uri} and {other.uri} have different queries or metrics on {first.eval_sets[digest]}; "
            "evaluate both models with the same MNRL_METRIC_CUTOFFS"
        )
    return [line | {"after": results[line["query_id"]]} for line in lines]
