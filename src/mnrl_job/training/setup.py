"""The parts of a trainer, built from the settings of the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments

from mnrl_job.batching.planning import Plan
from mnrl_job.config.settings import Settings
from mnrl_job.data.tables import read_groups, read_negatives
from mnrl_job.embedding.chunk_budget import chunk_budget_for
from mnrl_job.embedding.precision import Precision
from mnrl_job.training.callbacks.divergence import DivergenceMonitor
from mnrl_job.training.collator import TextCollator, TokenCollator, build_collator
from mnrl_job.training.fsdp import is_sharded
from mnrl_job.training.guide import FOLDER, read_guide
from mnrl_job.training.hard_negatives.mining import MiningConfig
from mnrl_job.training.hard_negatives.mining_rounds import HardNegatives
from mnrl_job.training.inputs import TrainingData
from mnrl_job.training.known_positives import find_known_positives
from mnrl_job.training.lora import add_adapter
from mnrl_job.training.memory import checkpoint_layers
from mnrl_job.training.shard_collator import ShardCollator
from mnrl_job.training.shard_files import ShardFiles
from mnrl_job.training.training_args import OptimizerConfig, training_args


def prepare_model(model: SentenceTransformer, settings: Settings, precision: Precision) -> None:
    """Add the LoRA adapter and enable gradient checkpointing, as the settings say."""
    if settings.lora_rank:
        # FSDP casts sharded weights when it gathers them.
        add_adapter(model, settings.lora_rank, settings.seed, "fp32" if is_sharded() else precision)
    if settings.gradient_checkpointing:
        checkpoint_layers(model)


def mine_hard_negatives(
    model: SentenceTransformer, settings: Settings, data: TrainingData, plan: Plan, precision: Precision, folder: Path
) -> HardNegatives | None:
    """The hard negatives of the first epoch, mined unless a checkpoint has them; None if the settings ask for none."""
    if not settings.num_hard_negatives:
        return None
    config = MiningConfig(
        settings.num_hard_negatives,
        settings.hard_negative_range,
        settings.hard_negative_relative_margin,
        settings.mines_every_epoch,
    )
    negatives = HardNegatives(model, config, precision, data, plan, folder)
    if negatives.due(0):
        negatives.mine(0)
    return negatives


def divergence_monitor(settings: Settings, learning_rate: float, data: TrainingData, plan: Plan) -> DivergenceMonitor:
    """Compares the loss with that of random scores over the documents of an average batch."""
    if data.batch_plan.tokens:
        given = data.batch_plan.tokens.negatives_per_step
    else:
        given = int(read_negatives(data.batch_plan.labels).counts[plan].sum()) / max(1, len(plan))
    documents = plan.shape[1] * (1 + settings.num_hard_negatives) + given
    return DivergenceMonitor(data.pairs.path, documents, learning_rate, len(settings.matryoshka_dims) or 1)


def build_batches(
    model: SentenceTransformer,
    settings: Settings,
    data: TrainingData,
    plan: Plan,
    mined: HardNegatives | None,
    scratch: Path,
) -> tuple[Dataset, TokenCollator | TextCollator | ShardCollator]:
    """What is sampled, and what makes batches of it: the labels of all rows, or the steps of prepared tokens.

    With prepared tokens nothing here takes longer with more rows.
    """
    budget = chunk_budget_for(model, PartialState().device, settings.mini_batch_size)
    labels = data.batch_plan.labels
    if tokens := data.batch_plan.tokens:
        files = ShardFiles(tokens, len(plan), scratch / "tokens", settings.s3_addressing_style)
        return Dataset(pa.table({"step": np.arange(len(plan))})), ShardCollator(model, files, plan.shape[1], budget)
    collate = build_collator(model, data.pairs, budget, read_negatives(labels))
    collate.row_texts = replace(collate.row_texts, mined=mined, positives=find_known_positives(read_groups(labels)))
    if settings.loss == "guided":
        collate.guide = read_guide(scratch / FOLDER, data.pairs.columns)
    return Dataset.from_file(str(labels)).select_columns("label"), collate


def build_training_args(
    settings: Settings, learning_rate: float, plan: Plan, precision: Precision, folder: Path
) -> SentenceTransformerTrainingArguments:
    """The trainer's arguments. Data loader processes would not see negatives mined in later epochs."""
    optimizer = OptimizerConfig(learning_rate, settings.warmup_ratio, settings.weight_decay, settings.lr_scheduler)
    return training_args(optimizer, plan, precision, settings.seed, folder, prefetch=not settings.mines_every_epoch)
