"""The `export` command: a published run in other formats, each published beside it at `RUN_ID.exports/FORMAT/`."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.sources import fetch, locate_all
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.pipeline.inputs import read_eval_sets
from mnrl_job.report.export_report import export_card, export_metrics
from mnrl_job.report.json_file import write_json
from mnrl_job.runs.attempt import work_dir
from mnrl_job.runs.publish import already_published, publish_folder
from mnrl_job.runs.verify import verify_run
from mnrl_job.storage import LocalStore, Store, open_store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.manifest import MANIFEST
from mnrl_job.storage.probe import probe
from mnrl_job.storage.uri import join
from mnrl_job.system.devices import Devices
from mnrl_job.system.files import scratch_folder
from mnrl_job.system.home import provide_home
from mnrl_job.system.json_text import sha256_of_json
from mnrl_job.system.logs import log, warn
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import raise_on_signal
from mnrl_job.worker.results import Export

PACKAGES: dict[ExportFormat, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "int8": ("onnx", "onnxscript", "onnxruntime"),
}
CPU = Devices(gpus=(), workers=1)


def export_run(uri: str, formats: Sequence[ExportFormat], settings: Settings) -> Iterator[dict[str, Any]]:
    """Verify a published run, then export, compare, score and publish its model in each format that is not there yet.

    Yields:
        The content of each `export.json`, once it is published.

    Raises:
        JobError: the run is missing, unfinished or damaged, its model cannot be exported, or the export differs.
    """
    check_packages(formats)
    with raise_on_signal(), scratch_folder(work_dir(settings.work_dir)) as scratch, translate_disk_full(scratch):
        provide_home(scratch)
        run = open_store(uri, "URI", settings.s3_addressing_style)
        folder = verify_run(run, scratch / "run")
        if not (folder / "verification.json").exists():
            raise SettingsError(f"{uri} has no trained model to export; give the URI of a run of `mnrl-job train`")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        eval_sets = get_eval_sets(settings, scratch, metrics["data"]["eval"])
        task = WorkerTask(settings, "", scratch, folder, eval_sets, inputs={})
        timeouts = WorkerTimeouts(settings.hang_timeout.seconds, settings.grace_period.seconds)
        manifest_sha256 = hashlib.sha256(read_bytes(run, MANIFEST) or b"").hexdigest()
        exports = f"{run.root.resolve() if isinstance(run, LocalStore) else uri.rstrip('/')}.exports"
        for name in dict.fromkeys(formats):
            export_uri = join(exports, name)
            target = open_store(export_uri, "URI", settings.s3_addressing_style)
            facts = {"run_id": metrics["run"]["id"], "run_manifest_sha256": manifest_sha256, "format": name}
            if is_exported(target, facts):
                log(f"{export_uri} is already published; nothing to do")
                continue
            probe(target)
            result = run_workers("export", replace(task, export_format=name), CPU, timeouts, "export.json", Export)
            report = export_metrics(result, manifest_sha256, metrics)
            write_reports(scratch / name, report, settings.primary_eval[1])
            publish_folder(target, scratch / name, {**facts, "settings_sha256": sha256_of_json(facts)})
            log(f"published {export_uri}")
            yield report


def check_packages(formats: Sequence[ExportFormat]) -> None:
    """Check that the packages for these formats are installed.

    Raises:
        SettingsError: one is not.
    """
    for name in formats:
        missing = [package for package in PACKAGES[name] if find_spec(package) is None]
        if missing:
            raise SettingsError(
                f"--format {name} needs {', '.join(missing)}; run `make install-export`, or install "
                "requirements-export.lock (WITH_EXPORT=1 for an image)"
            )


def get_eval_sets(settings: Settings, scratch: Path, recorded: Mapping[str, Any]) -> tuple[EvalSet, ...]:
    """Fetch and read the eval sets of `MNRL_EVAL_DATA`.

    Args:
        settings: name them.
        scratch: where they are fetched to and written.
        recorded: those of the run by name, with the SHA-256 of each.

    Raises:
        DataError: one has the name of an eval set of the run, but contains other data.
        JobError: one is missing or unusable.
    """
    variable = "MNRL_EVAL_DATA"
    located = locate_all(settings.eval_data, variable, settings.s3_addressing_style)
    sources = [fetch(source, scratch / "inputs") for source in located]
    eval_sets = read_eval_sets(sources, scratch, settings.max_bad_row_ratio)
    for eval_set in eval_sets:
        known = recorded.get(eval_set.name)
        if known and known["sha256"] != eval_set.sha256:
            raise DataError(
                f"{variable}: {eval_set.name} differs from the eval set of that name in the run (SHA-256 "
                f"{eval_set.sha256}, there {known['sha256']}); give the same data, or another name"
            )
    if not eval_sets:
        warn("MNRL_EVAL_DATA names no eval set, so the exports are compared with the model, but not scored")
    return eval_sets


def write_reports(staging: Path, report: Mapping[str, Any], metric: str) -> None:
    """Write `export.json`, and the model card."""
    write_json(staging / "export.json", report)
    card = staging / "model" / "README.md"
    card.write_text(export_card(card.read_text(encoding="utf-8"), report, metric), encoding="utf-8")


def is_exported(target: Store, facts: Mapping[str, str]) -> bool:
    """Whether the export is already published.

    Raises:
        SettingsError: it was made from another run.
        DataError: its manifest is missing or damaged.
    """
    try:
        return already_published(target, sha256_of_json(facts)) is not None
    except SettingsError as error:
        raise SettingsError(
            f"{target.label} was exported from another run that had this id; exports are never overwritten: remove it, "
            "then start again"
        ) from error
