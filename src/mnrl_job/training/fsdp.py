"""A model that ranks hold in shares (FSDP2, torch's `fully_shard`), as an accelerate configuration file wants it."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from torch.distributed.tensor import DTensor

from mnrl_job.errors import SettingsError

PASSED = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
ASKED = "ACCELERATE_USE_FSDP"


def apply_accelerate_config(path: str) -> None:
    """Set what `accelerate launch --config_file` would set in this process; before accelerate's state is made.

    Raises:
        SettingsError: accelerate does not accept the file.
    """
    # Only here, since it takes every worker's time to import: the launcher and its command line.
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    workers = os.environ.get("WORLD_SIZE", "1")
    try:
        arguments = launch_command_parser().parse_args(["--config_file", path, "--num_processes", workers, "worker"])
        arguments, _, _ = _validate_launch_command(arguments)
        arguments.main_process_port = 0  # not to look for a port, which the supervisor has found already
        wanted = prepare_multi_gpu_env(arguments)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {path}: {error}; mend the file with accelerate config") from error
    os.environ |= {name: value for name, value in wanted.items() if name.startswith(PASSED)}
    # Otherwise all ranks but the first would begin with empty weights, and evaluate these.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def shard_on_processors(state: PartialState) -> None:
    """Have accelerate use FSDP on processors, too; it looks for it on accelerators only, though torch does both."""
    if os.environ.get(ASKED) == "true" and state.distributed_type == DistributedType.MULTI_CPU:
        vars(state)["distributed_type"] = DistributedType.MULTI_GPU


def is_sharded() -> bool:
    """Whether models in training are held in shares."""
    return os.environ.get(ASKED) == "true" and PartialState().num_processes > 1


def check_checkpoint(folder: Path) -> None:
    """Several workers cannot resume from a model that is held whole, nor one from a model in shares.

    Raises:
        SettingsError: the checkpoint is of the other kind.
    """
    in_shares = any(folder.glob("pytorch_model_fsdp*"))
    if in_shares and not is_sharded():
        raise SettingsError(
            "the checkpoint of this run holds the model in shares, which one worker cannot resume from; "
            "set MNRL_NUM_PROCESSES to 2 or more, or another MNRL_RUN_ID"
        )
    if is_sharded() and not in_shares:
        raise SettingsError(
            "the checkpoint of this run is of one worker; several with MNRL_ACCELERATE_CONFIG cannot resume from it; "
            "set MNRL_NUM_PROCESSES=1, or another MNRL_RUN_ID"
        )


def fit_for_sharding(model: SentenceTransformer) -> None:
    """Spare accelerate and torch what they stumble over.

    accelerate shards the last norm by itself, and takes the library's `Normalize` for it, whose class torch cannot
    change; so it is to look into the backbone. Of weights that no embedding depends on, often a pooler's, the
    optimizer saves nothing, and torch would miss it when it loads; so they stand still, as they do anyway for want of
    a gradient.
    """
    vars(model)["base_model_prefix"] = "transformers_model"
    embeddings = model.eval()(send_to_device(model.preprocess(["a text"]), model.device))["sentence_embedding"]
    read = _weights_behind(embeddings)
    for weight in model.parameters():
        weight.requires_grad_(weight.requires_grad and id(weight) in read)


def _weights_behind(result: torch.Tensor) -> set[int]:
    """Which weights, by their ids, a result's gradient would flow to."""
    seen: set[Any] = set()
    ahead: list[Any] = [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead.extend(following for following, _ in node.next_functions)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


def full_tensor(weight: torch.Tensor) -> torch.Tensor:
    """A weight from the shares of all ranks; every rank must ask."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def unsharded(model: SentenceTransformer, fresh: SentenceTransformer) -> SentenceTransformer:
    """Give `fresh`, the base model read anew, the weights that the ranks hold in shares; every rank must ask."""
    fresh.load_state_dict({name: full_tensor(weight).cpu() for name, weight in model.state_dict().items()})
    return fresh
