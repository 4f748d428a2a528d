"""An accelerate configuration file, as far as it can be judged before anything heavy begins, without accelerate."""

from pathlib import Path

import yaml

from mnrl_job.errors import NotFound, SettingsError, first_line
from mnrl_job.launch.nodes import SINGLE_NODE, Nodes
from mnrl_job.system.logs import warn

SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
REMEDY = "give a file with distributed_type: FSDP and fsdp_version: 2"


def check_accelerate_file(name: str, workers: int, nodes: Nodes = SINGLE_NODE) -> None:
    """Warn of what in the file is not its to say.

    Args:
        name: its path.
        workers: processes on each machine.
        nodes: the machines.

    Raises:
        NotFound: there is no such file.
        SettingsError: it cannot be read, or wants what this program does not do.
    """
    path, workers = Path(name), workers * nodes.max_nodes
    if not path.is_file():
        raise NotFound(f"MNRL_ACCELERATE_CONFIG: {name} is no file; give the path of an accelerate configuration")
    content = _content(path)
    wanted = str(content.get("distributed_type", "NO")).upper()
    if wanted not in SUPPORTED:
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {name}: distributed_type {wanted} is not supported; {REMEDY}")
    if wanted == "FSDP":
        _check_fsdp(name, content.get("fsdp_config"), workers, nodes)
    if content.get("num_processes", workers) not in (workers, -1):
        warn(f"num_processes in {name} does not count; there are {workers} workers (MNRL_NUM_PROCESSES)")
    if str(content.get("mixed_precision", "no")) != "no":
        warn(f"mixed_precision in {name} does not count; MNRL_PRECISION says what is computed in")


def _check_fsdp(name: str, fsdp: object, workers: int, nodes: Nodes) -> None:
    if not isinstance(fsdp, dict) or str(fsdp.get("fsdp_version")) != "2":
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {name}: only version 2 of FSDP is supported; {REMEDY}")
    if nodes.is_elastic:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {name}: FSDP in an elastic run ({nodes.min_nodes} to {nodes.max_nodes} nodes) is "
            "not supported until resharding works; start it on one node, or without the file"
        )
    if not nodes.is_single:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {name}: FSDP over {nodes.max_nodes} nodes is not supported, since checkpoints "
            "are put together from shares on one disk; start it on one node, or without the file"
        )
    if workers == 1:
        warn(f"{name} wants FSDP, but one worker has nobody to share the model with; it trains as without")


def _content(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(
            f"MNRL_ACCELERATE_CONFIG: {path} cannot be read: {first_line(error)}; give a YAML file"
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {path} holds no names and values; give a YAML file")
    return content
