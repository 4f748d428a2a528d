"""The training loop: Sentence Transformers' trainer over the planned batches."""

import math
import time
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from torch import nn
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from mnrl_job.batching.planning import Plan
from mnrl_job.config.settings import Settings
from mnrl_job.embedding.flat_buffer import unflatten
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.embedding.precision import autocast, choose_precision
from mnrl_job.embedding.tokens import Features
from mnrl_job.errors import OutOfMemory, first_line
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase
from mnrl_job.training.callbacks.best_model import BestModelCallback, EvalSchedule
from mnrl_job.training.callbacks.checkpoints import Checkpoints, CheckpointSpec
from mnrl_job.training.callbacks.progress import Progress
from mnrl_job.training.collator import FlatBufferCollator, TextCollator, TokenCollator
from mnrl_job.training.distributed import all_gather_with_grad, any_rank
from mnrl_job.training.fsdp import check_checkpoint, full_tensor, prepare_for_fsdp
from mnrl_job.training.gradient_accumulation import CastWeight, cast_weights
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.learning_rate import choose_learning_rate
from mnrl_job.training.lora import ADAPTER, read_adapter, write_adapter
from mnrl_job.training.losses.contrastive_loss import LossConfig
from mnrl_job.training.losses.mnrl import GlobalBatchLoss, OutOfMemoryOnSomeRank, Totals
from mnrl_job.training.memory import RandomState, activation_token_budget, describe_reduction
from mnrl_job.training.sampler import PlannedBatches
from mnrl_job.training.setup import (
    build_batches,
    build_training_args,
    divergence_monitor,
    mine_hard_negatives,
    prepare_model,
)
from mnrl_job.training.shard_collator import ShardCollator
from mnrl_job.training.step_context import step_context

REMEDY = "lower MNRL_MAX_SEQ_LENGTH, set MNRL_GRADIENT_CHECKPOINTING=true, or use a smaller model or a larger device"


class PlannedTrainer(SentenceTransformerTrainer):
    """The library's trainer over planned batches, which logs only through `Progress`.

    Attributes:
        settings: of the run.
        plan: row numbers, shape (steps, batch size).
        precision: of the forward pass.
        learning_rate: the peak of the schedule.
        global_loss: the loss, with its counters.
        progress: the last loss, and the digest of the rows trained on.
        best: evaluates during training and keeps the best weights; None without `MNRL_EVAL_INTERVAL`.
        shards: files of prepared tokens; None if texts are tokenized.
        negatives: mined hard negatives; None without `MNRL_NUM_HARD_NEGATIVES`.
        seconds_waited: time spent waiting for batches.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        settings: Settings,
        data: TrainingData,
        folders: AttemptFolders,
        checkpoint_spec: CheckpointSpec | None = None,
        score: Callable[[], float] | None = None,
    ) -> None:
        state, scratch = PartialState(), folders.scratch
        self.settings = settings
        self.resumed_totals = checkpoint_spec.resumed_totals() if checkpoint_spec else Totals()
        self.started = time.perf_counter()
        self.plan: Plan = np.load(data.batch_plan.plan, mmap_mode="r")[: settings.max_steps]
        self.epochs = data.batch_plan.epochs
        self.precision = choose_precision(settings.precision, state.device)
        epochs = sum(start < len(self.plan) for start in self.epochs)
        self.learning_rate = choose_learning_rate(settings, model, math.ceil(len(self.plan) / epochs))
        self.seconds_waited = 0.0
        self._step = 0
        prepare_model(model, settings, self.precision)
        self.negatives = mine_hard_negatives(model, settings, data, self.plan, self.precision, scratch)
        dataset, collate = build_batches(model, settings, data, self.plan, self.negatives, scratch)
        self.shards = collate.files if isinstance(collate, ShardCollator) else None
        loss_config = LossConfig(settings.scale, settings.loss, settings.hardness)
        self.global_loss = GlobalBatchLoss(model, loss_config, state.process_index, settings.matryoshka_dims)
        divergence = divergence_monitor(settings, self.learning_rate, data, self.plan)
        log_path = folders.staging / "training_log.jsonl"
        self.progress = Progress(log_path, self.plan, self.global_loss, divergence, is_main=state.is_main_process)
        super().__init__(
            model=model,
            args=build_training_args(settings, self.learning_rate, self.plan, self.precision, scratch / "trainer"),
            data_collator=FlatBufferCollator(collate),
            train_dataset=dataset,
            loss=self.global_loss,
            callbacks=[self.progress],
        )
        self.remove_callback(PrinterCallback)
        self.best = self._best_model_callback(score, checkpoint_spec, scratch)
        votes = self.global_loss.votes
        if self.best:
            self.add_callback(self.best)
            votes.add("score", partial(self._score_is_due, self.best))
        if checkpoint_spec:
            interval = settings.checkpoint_interval
            self.add_callback(Checkpoints(interval, checkpoint_spec, votes, self.totals, self.best))
        self._fit_memory(collate)
        self._cast_weights = self._find_cast_weights(collate.sample_chunks())

    def _best_model_callback(
        self, score: Callable[[], float] | None, checkpoint_spec: CheckpointSpec | None, scratch: Path
    ) -> BestModelCallback | None:
        if self.settings.eval_interval is None or score is None:
            return None
        schedule = EvalSchedule(self.settings.eval_interval, self.settings.early_stopping_patience)
        resume = checkpoint_spec.resume if checkpoint_spec else None
        on_score = partial(self._log_score, f"eval_{self.settings.primary_eval[1]}")
        return BestModelCallback(self.model, schedule, score, scratch, resume, on_score)

    def _fit_memory(self, collate: TokenCollator | TextCollator | ShardCollator) -> None:
        """Decide for how many tokens activations are kept; with a sharded model all ranks must recompute alike."""
        state, loss = PartialState(), self.global_loss
        if not isinstance(collate, TextCollator):
            with autocast(self.precision, state.device):
                loss.activation_token_budget = activation_token_budget(
                    self.model.train(), collate, self.plan, state.num_processes
                )
        if self.is_fsdp_enabled:
            prepare_for_fsdp(self.model)
            loss.sync_chunk_count = True
            if any_rank(math.isfinite(loss.activation_token_budget)):
                loss.activation_token_budget = 0

    def _find_cast_weights(self, chunks: list[Features]) -> list[CastWeight]:
        if self.precision == "fp32" or self.is_fsdp_enabled:
            return []
        with autocast(self.precision, self.model.device):
            return cast_weights(self.model.eval(), chunks)

    def totals(self) -> Totals:
        """Totals so far, those of earlier attempts included. Collective."""
        before, current = self.resumed_totals, self.global_loss.totals()
        excluded = sum(task.seconds for task in (self.best, self.negatives) if task)
        return Totals(
            tokens=before.tokens + current.tokens,
            padded_tokens=before.padded_tokens + current.padded_tokens,
            negatives=before.negatives + current.negatives,
            masked=before.masked + current.masked,
            seconds=before.seconds + time.perf_counter() - self.started - excluded,
            seconds_waited=before.seconds_waited + self.seconds_waited,
        )

    def _score_is_due(self, best: BestModelCallback) -> bool:
        return best.due(self._step, len(self.plan))

    def _log_score(self, name: str, value: float) -> None:
        self.log({name: value})

    def get_batch_sampler(self, dataset: Dataset, *_: Any, **__: Any) -> PlannedBatches:
        ranks = PartialState().num_processes
        plan = np.repeat(np.arange(len(self.plan))[:, None], ranks, axis=1) if self.shards else self.plan
        return PlannedBatches(dataset, plan, ranks, self._begin_step)

    def _begin_step(self, step: int) -> None:
        """Get its tokens, and mine if due, with the weights of the step before the last: batches are fetched ahead."""
        if self.shards and step >= self.state.global_step:  # a resumed run skips the others
            self.shards.begin_step(step)
        if self.negatives and step in self.epochs and self.negatives.due(self.epochs.index(step)):
            self.negatives.mine(self.state.global_step)
            enter_phase(Phase.TRAIN, step=self.state.global_step, total_steps=len(self.plan))

    def get_batch_samples(self, *arguments: Any) -> Any:
        if self.control.should_training_stop:  # only if patience was exhausted at the checkpoint
            return [], None
        started = time.perf_counter()
        samples = super().get_batch_samples(*arguments)
        self.seconds_waited += time.perf_counter() - started
        return samples

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: torch.Tensor | float | None, *arguments: Any, **options: Any
    ) -> None:
        """After each step, and once more at the end. Evaluation comes last, so that a stop need not wait for it."""
        step, last = self.state.global_step, len(self.plan)
        if self.control.should_log and step > self._globalstep_last_logged:
            self._record_step(tr_loss, grad_norm, options["learning_rate"])
        # NaN weights must be neither saved nor scored.
        waits = self.control.should_save or self.control.should_training_stop or self.progress.due(step)
        if waits or (self.best and self.best.due(step, last)):
            self._log_recorded_steps()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **options)
        if self.best and (step == last or not self.control.should_training_stop):
            if self.global_loss.votes.passed("score"):
                self.best.score(step, last)
            self.control.should_training_stop |= self.best.patience_exhausted

    def _record_step(self, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: float) -> None:
        """Record a step to be logged later, with the sum of the losses since the last one: the mean over all rows."""
        losses = self.state.global_step - self._globalstep_last_logged
        norm = None if grad_norm is None else full_tensor(torch.as_tensor(grad_norm))
        self.progress.record(self.state, losses, all_gather_with_grad(tr_loss.reshape(1)).mean(), norm, learning_rate)
        self._globalstep_last_logged = self.state.global_step
        tr_loss.zero_()

    def _log_recorded_steps(self) -> None:
        """Call the callbacks for each recorded step, with the trainer's state as of that step."""
        state = self.state
        try:
            for step, logs in self.progress.flush():
                self._total_loss_scalar += logs["loss"] * step.losses
                self.state = copy(state)
                self.state.global_step, self.state.epoch = step.step, step.epoch
                self.log(logs)
        finally:
            self.state = state

    def collect_features(self, inputs: Any) -> Any:
        """Pass the batch as it is; the library's method would split it by column."""
        return inputs, inputs["label"]

    def training_step(self, model: nn.Module, inputs: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        """One step; if device memory runs out, retried with less memory, from the same random state.

        Several ranks can retry together while they embed; after that they wait for one another in collectives.

        Raises:
            OutOfMemory: not even one text fits, or memory ran out where other ranks cannot retry.
        """
        inputs = unflatten(inputs)
        self._step = self.state.global_step + 1
        random_state = RandomState.capture(self.model.device)
        while True:
            counts = self.global_loss.counts
            try:
                with step_context(self.model, self.precision, self._cast_weights, self.is_fsdp_enabled):
                    return super().training_step(model, inputs, *arguments, **options)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                message = first_line(error)
                can_retry = PartialState().num_processes == 1 or isinstance(error, OutOfMemoryOnSomeRank)
            if not can_retry:
                raise OutOfMemory(f"out of device memory where other ranks cannot retry: {message}; {REMEDY}")
            self._reduce_memory(inputs, message)
            self.global_loss.counts = counts
            self.model.zero_grad()
            torch.cuda.empty_cache()
            random_state.restore(self.model.device)

    def _reduce_memory(self, inputs: Any, message: str) -> None:
        loss = self.global_loss
        if not inputs["tokens"]:  # without token ids chunks cannot be split
            raise OutOfMemory(f"out of device memory: {message}; lower MNRL_BATCH_SIZE, or {REMEDY}")
        if not loss.reduce_memory(inputs["chunks"]):
            raise OutOfMemory(f"not even one text at a time fits into device memory: {message}; {REMEDY}")
        change = describe_reduction(loss.activation_token_budget, loss.sub_chunks)
        warn(f"out of device memory at step {self._step}: {change}; retrying the step")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights of a checkpoint, or the adapter's, without the library's model card, which queries the Hub.

        Called on every rank. With FSDP the trainer saves sharded weights together with the optimizer's state.
        """
        if self.is_fsdp_enabled:
            return
        if self.settings.lora_rank:
            write_adapter(self.model, self.settings.base_model, Path(str(output_dir)) / ADAPTER)
        elif self.args.should_save:
            self.model.save_pretrained(str(output_dir), create_model_card=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_checkpoint(Path(resume_from_checkpoint))
        if self.is_fsdp_enabled:
            Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
        elif self.settings.lora_rank:
            read_adapter(self.model, Path(resume_from_checkpoint) / ADAPTER)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Skip the library's model card, which embeds training texts as examples and queries the Hub."""
