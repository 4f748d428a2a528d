"""Early checks of an accelerate configuration file, without importing accelerate."""

from pathlib import Path

import yaml

from mnrl_job.errors import NotFound, SettingsError, first_line
from mnrl_job.launch.nodes import SINGLE_NODE, Nodes
from mnrl_job.system.logs import warn

SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
REMEDY = "expected distributed_type: FSDP and fsdp_version: 2"


def check_accelerate_file(name: str, workers: int, nodes: Nodes = SINGLE_NODE) -> None:
    """Check that the file is supported with `workers` per node, and warn of options that are ignored.

    Raises:
        NotFound: the file does not exist.
        SettingsError: it cannot be read, or is not supported.
    """
    path, workers = Path(name), workers * nodes.max_nodes
    if not path.is_file():
        raise NotFound(
            f"MNRL_ACCELERATE_CONFIG: {name} is not a file; set it to the path of an accelerate configuration"
        )
    config = _read(path)
    distributed_type = str(config.get("distributed_type", "NO")).upper()
    if distributed_type not in SUPPORTED:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {name}: distributed_type {distributed_type} is not supported; {REMEDY}"
        )
    if distributed_type == "FSDP":
        _check_fsdp(name, config.get("fsdp_config"), workers, nodes)
    if config.get("num_processes", workers) not in (workers, -1):
        warn(f"num_processes in {name} is ignored; there are {workers} workers (MNRL_NUM_PROCESSES)")
    if str(config.get("mixed_precision", "no")) != "no":
        warn(f"mixed_precision in {name} is ignored; set MNRL_PRECISION instead")


def _check_fsdp(name: str, fsdp: object, workers: int, nodes: Nodes) -> None:
    if not isinstance(fsdp, dict) or str(fsdp.get("fsdp_version")) != "2":
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {name}: only version 2 of FSDP is supported; {REMEDY}")
    if nodes.is_elastic:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {name}: FSDP in an elastic run ({nodes.min_nodes} to {nodes.max_nodes} nodes) is "
            "not supported, since its checkpoints cannot be resharded; run on one node, or without the file"
        )
    if not nodes.is_single:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {name}: FSDP over {nodes.max_nodes} nodes is not supported, since checkpoints "
            "are merged from shards on one disk; run on one node, or without the file"
        )
    if workers == 1:
        warn(f"{name} sets FSDP, which is ignored with one worker")


def _read(path: Path) -> dict[str, object]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {path} cannot be read: {first_line(error)}; expected a YAML file"
        ) from error
    if not isinstance(config, dict):
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {path} is not a mapping; expected an accelerate configuration in YAML"
        )
    return config
