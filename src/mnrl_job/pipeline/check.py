"""The `check` command: finds what would fail a run before GPU time is spent, each finding with its remedy."""

from collections.abc import Callable
from typing import Any

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import LocatedInputs, locate_inputs
from mnrl_job.data.listing import list_inputs
from mnrl_job.data.sources import ResolvedSource, locate, locate_model, rejoin_commas
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.pipeline.check_data import check_data
from mnrl_job.pipeline.check_model import check_model
from mnrl_job.pipeline.check_sample import truncation_findings
from mnrl_job.pipeline.find_prepared import with_prepared
from mnrl_job.pipeline.findings import Findings
from mnrl_job.pipeline.inputs import input_uris, needed_scratch_bytes
from mnrl_job.pipeline.published import is_published
from mnrl_job.report.audit import with_lengths
from mnrl_job.runs.attempt import Attempt, start_attempt
from mnrl_job.storage.probe import probe, write_speed
from mnrl_job.system import machine
from mnrl_job.system.devices import Devices, describe_gpus, find_devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.preemption import raise_on_signal
from mnrl_job.system.quantities import file_size, plural
from mnrl_job.tracking.packages import check_packages


def check(
    settings: Settings, report: Callable[[Finding], None], full: bool = False
) -> tuple[tuple[Finding, ...], dict[str, Any] | None]:
    """Run all checks, except those that depend on a failed one; `report` is called with each finding at once.

    Of large data a sample is checked, unless `full`.

    Returns:
        The findings, and the content of `audit.json`, None where the data is unusable.
    """
    findings = Findings(report)
    findings.passed("settings", "all valid")
    findings.add_all(check_packages(settings.report_to))
    with raise_on_signal(), start_attempt(settings) as attempt, machine.translate_disk_full(attempt.scratch):
        if attempt.nodes.is_first:
            audit = check_run(settings, attempt, findings, full)
        else:
            audit = None
            check_machine(settings, attempt, check_inputs_exist(settings, attempt, findings), findings)
    return tuple(findings.items), audit


def check_run(settings: Settings, attempt: Attempt, findings: Findings, full: bool) -> dict[str, Any] | None:
    """Run all checks of node 0. Returns the content of `audit.json`, None where the data is unusable."""
    speed = check_output(settings, attempt, findings)
    located = check_inputs(settings, findings)
    devices = check_machine(settings, attempt, located, findings)
    if not located or not devices:
        return None
    checked = check_data(settings, attempt, located, attempt.nodes.max_nodes * devices.workers, findings, full)
    if checked is None:
        return None
    task, work, audit = checked
    lengths = check_model(task, work, devices, attempt.timeouts, speed, findings)
    if lengths and work.is_sampled:
        findings.add_all(truncation_findings(lengths))
    return with_lengths(audit, lengths)


def check_inputs_exist(settings: Settings, attempt: Attempt, findings: Findings) -> LocatedInputs | None:
    """Locate the inputs, whose size the disk check needs. Their content is the same for all nodes: node 0 checks it."""
    with findings.checking("inputs"):
        located = locate_inputs(input_uris(settings))
        findings.passed("inputs", f"found; this is node {attempt.nodes.rank}, node 0 checks data, model and output")
        return with_prepared(settings, located, list_inputs(located))
    return None


def check_output(settings: Settings, attempt: Attempt, findings: Findings) -> float | None:
    """Write, read, create and delete in the run's folder. Returns the bytes written per second, None on failure."""
    with findings.checking("output"):
        store = attempt.store()
        if is_published(settings, attempt, store):
            remedy = "train would do nothing; choose another MNRL_RUN_ID to train again"
            findings.add(
                Finding("output", "warning", f"{attempt.run_uri} is already published with these settings", remedy)
            )
            return None
        writes = "conditional writes" if probe(store) else "no conditional writes, so attempts lock"
        speed = write_speed(store)
        findings.passed("output", f"{attempt.run_uri}: can write, read and delete; {writes}; {file_size(speed)}/s")
        return speed
    return None


def check_inputs(settings: Settings, findings: Findings) -> LocatedInputs | None:
    """Locate each input, and a prepared data set to use instead of the data; None where one is missing."""
    style = settings.s3_addressing_style

    def locate_all(sources: tuple[Source, ...], variable: str) -> list[ResolvedSource | None]:
        return [_locate(findings, source, variable, style) for source in rejoin_commas(sources, variable, style)]

    train = locate_all(settings.train_data, "MNRL_TRAIN_DATA")
    evals = locate_all(settings.eval_data, "MNRL_EVAL_DATA")
    names = {"base model": settings.base_model} | (
        {"guide model": settings.guide_model} if settings.guide_model else {}
    )
    models: dict[str, ResolvedSource | None] = {}
    for check, name in names.items():
        with findings.checking(check):
            model = models[check] = locate_model(name, style, f"MNRL_{check.replace(' ', '_').upper()}")
            size = file_size(model.bytes) if model else "a Hub id, loaded below"
            findings.passed(check, f"{name}: {size}")
    if not all((*train, *evals)) or models.keys() != names.keys():
        return None
    data = tuple(filter(None, train)), tuple(filter(None, evals))
    located = LocatedInputs(*data, models["base model"], models.get("guide model"))
    with findings.checking("prepared data"):
        return with_prepared(settings, located, list_inputs(located))
    return None


def _locate(findings: Findings, source: Source, variable: str, addressing_style: str) -> ResolvedSource | None:
    check = f"input {source.name}"
    with findings.checking(check):
        located = locate(source, variable, addressing_style)
        files = len(located.files) or len(located.entries)
        findings.passed(check, f"{located.uri}: {plural(files, 'file')}, {file_size(located.bytes)}")
        return located
    return None


def check_machine(
    settings: Settings, attempt: Attempt, located: LocatedInputs | None, findings: Findings
) -> Devices | None:
    """Check devices, disk, shared memory, user and caches. Returns the devices, None where a check failed."""
    devices = None
    with findings.checking("devices"):
        devices = find_devices(settings.num_processes, settings.min_gpus)
        findings.passed("devices", f"{describe_gpus()}; {plural(devices.workers, 'worker')}")
    if devices and settings.accelerate_config:
        with findings.checking("accelerate config"):
            check_accelerate_file(settings.accelerate_config, devices.workers, attempt.nodes)
            findings.passed("accelerate config", f"{settings.accelerate_config}: supported")
    machine_findings = [machine.shared_memory(devices)] if devices else []
    machine_findings += [machine.user(), machine.caches()]
    machine_findings += [machine.disk(attempt.scratch, needed_scratch_bytes(settings, located))] if located else []
    findings.add_all(machine_findings)
    return None if any(finding.status == "failed" for finding in machine_findings) else devices
