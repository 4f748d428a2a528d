"""Models sharded by FSDP2 (torch's `fully_shard`), configured by an accelerate configuration file."""

import os
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from torch.distributed.tensor import DTensor

from mnrl_job.errors import SettingsError
from mnrl_job.training.gradient_accumulation import leaf_uses

FORWARDED_PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
USE_FSDP = "ACCELERATE_USE_FSDP"


def apply_accelerate_config(path: str) -> None:
    """Set what `accelerate launch --config_file` would set in this process; before accelerate's state is created.

    Raises:
        SettingsError: accelerate rejects the file.
    """
    # Imported here, since accelerate's launcher and its command line take long to import.
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    workers = os.environ.get("WORLD_SIZE", "1")
    try:
        arguments = launch_command_parser().parse_args(["--config_file", path, "--num_processes", workers, "worker"])
        arguments, _, _ = _validate_launch_command(arguments)
        arguments.main_process_port = 0  # the supervisor has chosen a port already
        environment = prepare_multi_gpu_env(arguments)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"MNRL_ACCELERATE_CONFIG: {path}: {error}; fix the file with accelerate config") from error
    os.environ |= {name: value for name, value in environment.items() if name.startswith(FORWARDED_PREFIXES)}
    # Otherwise all ranks but the first would start with empty weights, and evaluate these.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def enable_cpu_fsdp(state: PartialState) -> None:
    """Have accelerate use FSDP on CPUs too; it checks for it on accelerators only, though torch supports both."""
    if os.environ.get(USE_FSDP) == "true" and state.distributed_type == DistributedType.MULTI_CPU:
        vars(state)["distributed_type"] = DistributedType.MULTI_GPU


def is_sharded() -> bool:
    return os.environ.get(USE_FSDP) == "true" and PartialState().num_processes > 1


def check_checkpoint(folder: Path) -> None:
    """Sharded checkpoints can be resumed by several workers only, others by unsharded ones only.

    Raises:
        SettingsError: the checkpoint is of the other kind.
    """
    sharded = any(folder.glob("pytorch_model_fsdp*"))
    if sharded and not is_sharded():
        raise SettingsError(
            "the checkpoint of this run is sharded, and a single worker cannot resume from it; "
            "set MNRL_NUM_PROCESSES to 2 or more, or another MNRL_RUN_ID"
        )
    if is_sharded() and not sharded:
        raise SettingsError(
            "the checkpoint of this run is not sharded; several workers with MNRL_ACCELERATE_CONFIG cannot resume from "
            "it; set MNRL_NUM_PROCESSES=1, or another MNRL_RUN_ID"
        )


def prepare_for_fsdp(model: SentenceTransformer) -> None:
    """Work around two limitations of accelerate and torch.

    accelerate shards the last norm by itself, and takes the library's `Normalize` for it, whose class torch cannot
    change; so it is pointed to the backbone. The optimizer saves no state for weights that no embedding depends on,
    often a pooler's, and torch fails to load it; so they are frozen, and without a gradient they do not change anyway.
    """
    vars(model)["base_model_prefix"] = "transformers_model"
    embeddings = model.eval()(send_to_device(model.preprocess(["a text"]), model.device))["sentence_embedding"]
    used = {id(weight) for _, weight in leaf_uses(embeddings.grad_fn)}
    for weight in model.parameters():
        weight.requires_grad_(weight.requires_grad and id(weight) in used)


def full_tensor(weight: torch.Tensor) -> torch.Tensor:
    """A weight gathered from the shards of all ranks. Collective."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def unsharded(model: SentenceTransformer, base: SentenceTransformer) -> SentenceTransformer:
    """Load the sharded weights of `model` into `base`, a freshly loaded base model. Collective."""
    base.load_state_dict({name: full_tensor(weight).cpu() for name, weight in model.state_dict().items()})
    return base
