"""Trackers hear of the training through the library's callbacks, each from a thread of its own: none can stop it."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback

from mnrl_job.system import preemption
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import log, warn
from mnrl_job.tracking.tracked import TrackedRun
from mnrl_job.tracking.trackers import left_out, open_tracker

# So long a training waits for trackers at its end; where it failed, or was asked to stop, it has no time.
SECONDS_AT_THE_END, SECONDS_IN_A_HURRY = 15.0, 2.0
LOOK_SECONDS = 0.1


class _WaitingMLflowCallback(MLflowCallback):
    """Waits for the server. MLflow's own queue keeps to itself what goes wrong."""

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        MLflowCallback.setup(self, args, state, model)
        self._async_log = False


CALLBACKS = {"tensorboard": TensorBoardCallback, "wandb": WandbCallback, "mlflow": _WaitingMLflowCallback}


class TrackerCallback(TrainerCallback):
    """Passes on what the trainer says. Whatever goes wrong with a tracker is said once, then it is left out.

    Args:
        name: of the tracker.
        run: what it is told.
    """

    def __init__(self, name: str, run: TrackedRun) -> None:
        self._name = name
        self._run = run
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._out = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._pass_on("on_train_begin", args, state, control)
        told = tuple(state.log_history)  # up to the checkpoint that the training goes on from
        self._calls.put(lambda: self._tell_again(args, state, control, told))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._pass_on("on_log", args, state, control, logs=dict(logs or {}))

    def wait(self, seconds: float) -> bool:
        """Whether all that was said is passed on, at the latest after so many seconds."""
        done, deadline = Event(), time.monotonic() + seconds
        self._calls.put(done.set)
        while self._thread.is_alive() and not done.wait(LOOK_SECONDS) and time.monotonic() < deadline:
            heartbeat()
        return done.is_set()

    def begin(self) -> None:
        """Reach the tracker, while the training begins."""
        self._thread.start()

    def finish(self, failed: bool) -> None:
        """The training is over."""
        self._calls.put(lambda: self._tracker.leave(False if failed else None))

    def give_up(self, why: BaseException | str) -> None:
        """Leave the tracker out, also of the results."""
        if not self._out:
            self._out = True
            warn(left_out(self._name, why))
            self._run.left_out_mark(self._name).touch()

    def _pass_on(self, hook: str, args: TrainingArguments, state: TrainerState, *rest: Any, **named: Any) -> None:
        now = copy.copy(state)  # the trainer goes on counting
        if not self._out:
            self._calls.put(lambda: getattr(self._callback, hook)(args, now, *rest, model=None, **named))

    def _tell_again(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, told: tuple[dict[str, float], ...]
    ) -> None:
        """What earlier attempts were told, where their files are gone, or the tracker had been left out."""
        for logs in told if self._tracker.is_new else ():
            then = copy.copy(state)
            then.global_step = int(logs["step"])
            self._callback.on_log(args, then, control, logs={name: logs[name] for name in logs if name != "step"})

    def _work(self) -> None:
        try:
            self._tracker = open_tracker(self._name)
            place = self._tracker.begin(self._run)
            self._callback = CALLBACKS[self._name]()
            log(f"tracked by {self._name}: {place}")
            while not self._out:
                self._calls.get()()
        except (Exception, SystemExit) as error:
            self.give_up(error)


@contextmanager
def tracked(trainer: Trainer, names: tuple[str, ...], run: TrackedRun) -> Iterator[None]:
    """While it trains, the trackers of these names are told what the first rank's trainer says."""
    callbacks = [TrackerCallback(name, run) for name in names if PartialState().is_main_process]
    # The first: others say something as the training begins, too.
    trainer.callback_handler.callbacks[:0] = callbacks
    for each in callbacks:
        each.begin()
    failed = True
    try:
        yield
        failed = False
    finally:
        for each in callbacks:
            each.finish(failed)
        hurried = failed or preemption.stop_requested()
        deadline = time.monotonic() + (SECONDS_IN_A_HURRY if hurried else SECONDS_AT_THE_END)
        for each in callbacks:
            if not each.wait(max(0.0, deadline - time.monotonic())):
                each.give_up("it is too slow, or does not answer")
