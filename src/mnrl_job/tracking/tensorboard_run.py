"""TensorBoard: files beside the run's others; what the trainer tells is written by its callback, the results here."""

import os
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from mnrl_job.tracking.tracked import TrackedRun, numbers, verdict

FOLDER = "TENSORBOARD_LOGGING_DIR"


class TensorboardRun:
    """Event files in the folder that `TENSORBOARD_LOGGING_DIR` names, or else in the run."""

    def begin(self, run: TrackedRun) -> str:
        self._settings = run.settings
        folder = os.environ.setdefault(FOLDER, str(run.tensorboard_folder))
        self.is_new = not any(Path(folder).glob("events.*"))
        return folder

    def attach(self, content: Mapping[str, Any], page: Path) -> None:
        step = content["training"]["steps"] if content["training"] else 0
        writer = EventFileWriter(os.environ[FOLDER])
        scalars = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in numbers(content)])
        texts = {"results": verdict(content), "settings": self._settings}
        for summary in (scalars, *(text_pb(tag, _table(rows)) for tag, rows in texts.items())):
            writer.add_event(Event(wall_time=time(), step=step, summary=summary))
        writer.close()

    def leave(self, passed: bool | None) -> None:
        """Nobody waits for files."""


def _table(rows: Mapping[str, str]) -> str:
    """A table in Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
