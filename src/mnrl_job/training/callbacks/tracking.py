"""Report the training to experiment trackers through the callbacks of transformers, in threads that cannot stop it."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback

from mnrl_job.system import preemption
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import log, warn
from mnrl_job.tracking.packages import disabled_warning
from mnrl_job.tracking.run import TrackedRun
from mnrl_job.tracking.trackers import TRACKERS

# How long the end of the training waits for trackers; less after a failure or a stop request.
TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS = 15.0, 2.0
POLL_SECONDS = 0.1


class _SynchronousMLflowCallback(MLflowCallback):
    """Logs synchronously: MLflow's own queue swallows errors."""

    def setup(self, args: Any, state: TrainerState, model: Any) -> None:
        MLflowCallback.setup(self, args, state, model)
        self._async_log = False


CALLBACKS = {"tensorboard": TensorBoardCallback, "wandb": WandbCallback, "mlflow": _SynchronousMLflowCallback}


class TrackerCallback(TrainerCallback):
    """Passes events to a callback of transformers in a thread. The first error disables the tracker, and is logged."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self._name = name
        self._run = run
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._disabled = False

    def start(self) -> None:
        """Connect to the tracker in the background."""
        self._thread.start()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._forward("on_train_begin", args, state, control)
        history = tuple(state.log_history)  # up to the checkpoint that is resumed
        self._calls.put(lambda: self._replay(args, state, control, history))

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._forward("on_log", args, state, control, logs=dict(kwargs["logs"]))

    def finish(self, failed: bool) -> None:
        """End the run at the tracker if the training failed; otherwise the results follow."""
        self._calls.put(lambda: self._tracker.finish(False if failed else None))

    def wait(self, timeout: float) -> bool:
        """Wait until all events are forwarded. Returns False after the timeout or an error."""
        done, deadline = Event(), time.monotonic() + timeout
        self._calls.put(done.set)
        while self._thread.is_alive() and not done.wait(POLL_SECONDS) and time.monotonic() < deadline:
            heartbeat()
        return done.is_set()

    def disable(self, cause: BaseException | str) -> None:
        """Report nothing more to the tracker, not even the results."""
        if not self._disabled:
            self._disabled = True
            warn(disabled_warning(self._name, cause))
            self._run.disabled_marker(self._name).touch()

    def _forward(self, event: str, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        snapshot = copy.copy(state)  # the trainer updates it
        if not self._disabled:
            self._calls.put(lambda: getattr(self._callback, event)(args, snapshot, control, model=None, **kwargs))

    def _replay(self, args: Any, state: TrainerState, control: Any, history: tuple[dict[str, float], ...]) -> None:
        """Report the log of earlier attempts if the tracker does not have it."""
        for entry in history if self._tracker.is_new else ():
            snapshot = copy.copy(state)
            snapshot.global_step = int(entry["step"])
            logs = {name: value for name, value in entry.items() if name != "step"}
            self._callback.on_log(args, snapshot, control, logs=logs)

    def _work(self) -> None:
        try:
            self._tracker = TRACKERS[self._name]()
            location = self._tracker.start(self._run)
            self._callback = CALLBACKS[self._name]()
            log(f"reporting to {self._name}: {location}")
            while not self._disabled:
                self._calls.get()()
        except (Exception, SystemExit) as error:
            self.disable(error)


@contextmanager
def report_to(trainer: Trainer, trackers: tuple[str, ...], run: TrackedRun) -> Iterator[None]:
    """Report a training to these trackers, from rank 0."""
    callbacks = [TrackerCallback(name, run) for name in trackers if PartialState().is_main_process]
    # First, as other callbacks log when the training begins.
    trainer.callback_handler.callbacks[:0] = callbacks
    for callback in callbacks:
        callback.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        for callback in callbacks:
            callback.finish(failed)
        hurry = failed or preemption.stop_requested()
        deadline = time.monotonic() + (STOP_TIMEOUT_SECONDS if hurry else TIMEOUT_SECONDS)
        for callback in callbacks:
            if not callback.wait(max(0.0, deadline - time.monotonic())):
                callback.disable("it is too slow or does not respond")
