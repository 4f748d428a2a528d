"""The training loop: Sentence Transformers' trainer over the planned batches."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
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

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import Plan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import read_negatives
from mnrl_job.embedding.chunk_limits import limit_for
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.embedding.packing import unpack
from mnrl_job.embedding.precision import DTYPES, Precision, autocast, choose_precision
from mnrl_job.errors import OutOfMemory, first_line
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase
from mnrl_job.training.callbacks.best_model import BestModelCallback
from mnrl_job.training.callbacks.checkpoints import Checkpoints, CheckpointSpec
from mnrl_job.training.callbacks.divergence import DivergenceMonitor
from mnrl_job.training.callbacks.progress import Progress
from mnrl_job.training.collator import Batch, PackingCollator, TextCollator, TokenCollator, collator
from mnrl_job.training.distributed import all_gather_with_grad, any_rank
from mnrl_job.training.dropout import cheap_dropout
from mnrl_job.training.embedding_lookup import shared_lookup, word_embedding
from mnrl_job.training.fsdp import check_checkpoint, fit_for_sharding, full_tensor, is_sharded
from mnrl_job.training.gradient_accumulation import (
    CastWeight,
    cast_weights,
    fp32_accumulation,
    sharded_fp32_accumulation,
)
from mnrl_job.training.guide import FOLDER, read_guide
from mnrl_job.training.hard_negatives.mining_rounds import HardNegatives
from mnrl_job.training.lora import ADAPTER, adapt, read_adapter, write_adapter
from mnrl_job.training.losses.mnrl import GlobalBatchLoss, OutOfMemoryOnSomeRank, Totals
from mnrl_job.training.memory import RandomState, checkpoint_layers, describe_reduction, tokens_that_fit
from mnrl_job.training.sampler import PlannedBatches
from mnrl_job.training.training_args import trainer_arguments

REMEDY = "lower MNRL_MAX_SEQ_LENGTH, set MNRL_GRADIENT_CHECKPOINTING=true, or take a smaller model or a larger device"


def documents_of_a_batch(plan: Plan, given: Ragged, mined: int) -> float:
    """How many documents a batch has on average: positives, the negatives given, and so many mined for each row."""
    return int(plan.shape[1]) * (1 + mined) + int(given.counts[plan].sum()) / max(1, len(plan))


def prepare(model: SentenceTransformer, settings: Settings, precision: Precision) -> None:
    """Give the model its adapter, and have its layers computed again for their gradients, where that is asked for."""
    if settings.lora_rank:
        # What is sharded is rounded as it is gathered.
        adapt(model, settings.lora_rank, settings.seed, "fp32" if is_sharded() else precision)
    if settings.gradient_checkpointing:
        checkpoint_layers(model)


class PlannedTrainer(SentenceTransformerTrainer):
    """The library's trainer over planned batches, speaking only through our progress.

    Attributes:
        settings: the run's.
        plan: row numbers, shape (steps, batch size).
        precision: the arithmetic of the forward pass.
        global_loss: the loss, with its counters.
        progress: the last loss, and the digest of the rows trained on.
        best: keeps the weights that score best, where that is asked for.
        negatives: those that are mined, where that is asked for.
        seconds_waited: for batches that were not ready.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        settings: Settings,
        pairs: Pairs,
        batching: BatchPlan,
        scratch: Path,
        staging: Path,
        keeping: CheckpointSpec | None = None,
        score: Callable[[], float] | None = None,
    ) -> None:
        state = PartialState()
        self.settings = settings
        self.before = keeping.resumed_totals() if keeping else Totals()
        self.began = time.perf_counter()
        self.plan: Plan = np.load(batching.plan, mmap_mode="r")[: settings.max_steps]
        self.precision = choose_precision(settings.precision, state.device)
        self.seconds_waited = 0.0
        self._step = 0
        prepare(model, settings, self.precision)
        limit = limit_for(model, state.device, settings.mini_batch_size)
        given = read_negatives(batching.labels)
        collate = collator(model, pairs, limit, scratch / "tokens", given)
        self.epochs = batching.epochs
        self.negatives = None
        if settings.num_hard_negatives:
            self.negatives = HardNegatives(model, settings, pairs, batching, self.plan, scratch)
            collate.chosen = replace(collate.chosen, mined=self.negatives)
            if self.negatives.due(0):
                self.negatives.mine(0)
        if settings.loss == "guided":
            collate.guide = read_guide(scratch / FOLDER, pairs.columns)
        rank, hardness, dimensions = state.process_index, settings.hardness, settings.matryoshka_dims
        self.global_loss = GlobalBatchLoss(model, settings.scale, settings.loss, rank, hardness, dimensions)
        candidates = documents_of_a_batch(self.plan, given, settings.num_hard_negatives)
        divergence = DivergenceMonitor(
            pairs.path, candidates, settings.learning_rate, len(settings.matryoshka_dims) or 1
        )
        log_path = staging / "training_log.jsonl"
        self.progress = Progress(log_path, self.plan, self.global_loss, divergence, shows=state.is_main_process)
        labels = Dataset.from_file(str(batching.labels)).select_columns("label")
        super().__init__(
            model=model,
            args=trainer_arguments(settings, self.plan, self.precision, scratch / "trainer"),
            data_collator=PackingCollator(collate),
            train_dataset=labels,
            loss=self.global_loss,
            callbacks=[self.progress],
        )
        self.remove_callback(PrinterCallback)
        self.best = self._best(score, keeping, scratch)
        wishes = self.global_loss.wishes
        if self.best:
            self.add_callback(self.best)
            wishes.add("score", partial(self._score_is_due, self.best))
        if keeping:
            self.add_callback(Checkpoints(settings.checkpoint_interval, keeping, wishes, self.totals, self.best))
        self._fit_memory(collate)
        self._cast_weights = self._find_cast_weights(collate([labels[int(self.plan[0, 0])]]))

    def _best(
        self, score: Callable[[], float] | None, keeping: CheckpointSpec | None, scratch: Path
    ) -> BestModelCallback | None:
        """What scores the model while it trains, where that is asked for."""
        every, patience = self.settings.eval_interval, self.settings.early_stopping_patience
        if every is None or score is None:
            return None
        resume = keeping.resume if keeping else None
        tell = partial(self._tell_score, f"eval_{self.settings.primary_eval[1]}")
        return BestModelCallback(self.model, every, patience, score, scratch, resume, tell)

    def _fit_memory(self, collate: TokenCollator | TextCollator) -> None:
        """Decide of how many tokens activations are kept; shares of a model want the same of all ranks."""
        state = PartialState()
        if isinstance(collate, TokenCollator):
            with autocast(self.precision, state.device):
                fitting = tokens_that_fit(self.model.train(), collate, self.plan, state.num_processes)
            self.global_loss.activation_token_budget = fitting
        if self.is_fsdp_enabled:
            fit_for_sharding(self.model)
            self.global_loss.sync_chunk_count = True
            if any_rank(math.isfinite(self.global_loss.activation_token_budget)):
                self.global_loss.activation_token_budget = 0

    def _find_cast_weights(self, some: Batch) -> list[CastWeight]:
        """The weights whose gradients want to be added up in fp32, where FSDP does not cast them as it gathers."""
        if self.precision == "fp32" or self.is_fsdp_enabled:
            return []
        with autocast(self.precision, self.model.device):
            return cast_weights(self.model.eval(), some["chunks"])

    def totals(self) -> Totals:
        """What the training has spent so far, also before it was resumed; every rank must ask."""
        now = self.global_loss.totals()
        aside = sum(one.seconds for one in (self.best, self.negatives) if one)
        return Totals(
            tokens=self.before.tokens + now.tokens,
            padded_tokens=self.before.padded_tokens + now.padded_tokens,
            negatives=self.before.negatives + now.negatives,
            masked=self.before.masked + now.masked,
            seconds=self.before.seconds + time.perf_counter() - self.began - aside,
            seconds_waited=self.before.seconds_waited + self.seconds_waited,
        )

    def _score_is_due(self, best: BestModelCallback) -> bool:
        return best.due(self._step, len(self.plan))

    def _tell_score(self, name: str, value: float) -> None:
        self.log({name: value})

    def get_batch_sampler(self, dataset: Dataset, *_: Any, **__: Any) -> PlannedBatches:
        return PlannedBatches(dataset, self.plan, PartialState().num_processes, self.epochs, self._begin_epoch)

    def _begin_epoch(self, epoch: int) -> None:
        """Mine hard negatives where that is due: by the weights of the last step but one, since batches are ahead."""
        if self.negatives and self.negatives.due(epoch):
            self.negatives.mine(self.state.global_step)
            enter_phase(Phase.TRAIN, step=self.state.global_step, total_steps=len(self.plan))

    def get_batch_samples(self, *arguments: Any) -> Any:
        if self.control.should_training_stop:  # before a step only where patience had ended at the checkpoint
            return [], None
        began = time.perf_counter()
        samples = super().get_batch_samples(*arguments)
        self.seconds_waited += time.perf_counter() - began
        return samples

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: torch.Tensor | float | None, *arguments: Any, **options: Any
    ) -> None:
        """After each step, and once more at the end. Evaluation comes last: a stop need not wait for it then."""
        step, last = self.state.global_step, len(self.plan)
        if self.control.should_log and step > self._globalstep_last_logged:
            self._keep_numbers(tr_loss, grad_norm, options["learning_rate"])
        # Weights that are not numbers are neither saved nor scored.
        waits = self.control.should_save or self.control.should_training_stop or self.progress.due(step)
        if waits or (self.best and self.best.due(step, last)):
            self._log_what_was_kept()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **options)
        if self.best and (step == last or not self.control.should_training_stop):
            if self.global_loss.wishes.granted("score"):
                self.best.score(step, last)
            self.control.should_training_stop |= self.best.patience_exhausted

    def _keep_numbers(self, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: float) -> None:
        """Have a step logged later, with the sum of the losses since the last one: the mean over all rows."""
        losses = self.state.global_step - self._globalstep_last_logged
        norm = None if grad_norm is None else full_tensor(torch.as_tensor(grad_norm))
        self.progress.keep(self.state, losses, all_gather_with_grad(tr_loss.reshape(1)).mean(), norm, learning_rate)
        self._globalstep_last_logged = self.state.global_step
        tr_loss.zero_()

    def _log_what_was_kept(self) -> None:
        """Tell the callbacks of each logged step, as if it had been made just now."""
        now = self.state
        try:
            for one, logs in self.progress.read():
                self._total_loss_scalar += logs["loss"] * one.losses
                self.state = copy(now)
                self.state.global_step, self.state.epoch = one.step, one.epoch
                self.log(logs)
        finally:
            self.state = now

    def collect_features(self, inputs: Any) -> Any:
        """Our batches stay whole; the library's would be taken apart by column."""
        return inputs, inputs["label"]

    def training_step(self, model: nn.Module, inputs: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        """One step; where device memory runs out, tried again with less at once, from the same random state.

        Several ranks can do so while they embed; from then on they wait for one another.

        Raises:
            OutOfMemory: not even one text fits, or memory ran out where ranks wait for one another.
        """
        inputs = unpack(inputs)
        self._step = self.state.global_step + 1
        random = RandomState.now(self.model.device)
        while True:
            counts = self.global_loss.counts
            try:
                with self._thrifty(inputs):
                    return super().training_step(model, inputs, *arguments, **options)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                told = first_line(error)
                together = PartialState().num_processes == 1 or isinstance(error, OutOfMemoryOnSomeRank)
            self._take_less(inputs, told, together)
            self.global_loss.counts = counts
            self.model.zero_grad()
            torch.cuda.empty_cache()
            random.restore(self.model.device)

    def _take_less(self, inputs: Any, told: str, together: bool) -> None:
        """Have the next try need less memory.

        Raises:
            OutOfMemory: there is nothing left to spare, or other ranks could not follow.
        """
        loss = self.global_loss
        if not together:
            raise OutOfMemory(f"out of device memory where ranks wait for one another: {told}; {REMEDY}")
        if not inputs["tokens"]:  # what has no tokens cannot be cut
            raise OutOfMemory(f"out of device memory: {told}; lower MNRL_BATCH_SIZE, or {REMEDY}")
        if not loss.reduce_memory(inputs["chunks"]):
            raise OutOfMemory(f"not even one text at a time fits into the device's memory: {told}; {REMEDY}")
        done = describe_reduction(loss.activation_token_budget, loss.sub_chunks)
        warn(f"out of device memory at step {self._step}: {done}; retrying the step")

    @contextmanager
    def _thrifty(self, inputs: Any) -> Iterator[None]:
        """What makes a step cheaper and changes nothing: one context for all chunks, forward and backward."""
        device = self.model.device
        with ExitStack() as stack:
            stack.enter_context(autocast(self.precision, device))
            if self._cast_weights:
                dtype = DTYPES[self.precision]
                stack.enter_context(fp32_accumulation(self.model, self._cast_weights, dtype))
            if self.is_fsdp_enabled and self.precision != "fp32":
                stack.enter_context(sharded_fp32_accumulation(self.model))
            if device.type == "cpu":
                stack.enter_context(cheap_dropout())
                if inputs["tokens"] and not self.is_fsdp_enabled and (words := word_embedding(self.model)):
                    stack.enter_context(shared_lookup(words, [chunk["input_ids"] for chunk in inputs["chunks"]]))
            yield

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The weights of a checkpoint, without the library's card, which asks the Hub; with LoRA the adapter's.

        Every rank is asked. Shares are saved together with the optimizer's, by the trainer.
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
        """The library's card embeds training texts as widget examples and asks the Hub; ours is written later."""
