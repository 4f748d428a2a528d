"""The phases of a run, as `progress.json`, heartbeats and errors name them."""

from enum import StrEnum


class Phase(StrEnum):
    """What a supervisor or a worker is doing."""

    STARTING = "starting"
    FETCH = "fetch"
    PREPARE = "prepare"
    TOKENIZE = "tokenize"
    JOIN = "join"
    START = "start"
    LOAD = "load"
    EMBED_BY_GUIDE = "embed_by_guide"
    EVALUATE_BEFORE = "evaluate_before"
    MINE = "mine"
    TRAIN = "train"
    EVALUATE_DURING = "evaluate_during"
    EVALUATE_AFTER = "evaluate_after"
    SAVE = "save"
    VERIFY = "verify"
    EXPORT = "export"
    EVALUATE_EXPORT = "evaluate_export"
    PUBLISH = "publish"
    DONE = "done"

    @property
    def is_silent(self) -> bool:
        """Whether no heartbeats are sent during this phase, or only now and then."""
        return self in _SILENT

    @property
    def timeout_factor(self) -> int:
        """How many times `MNRL_HANG_TIMEOUT` this phase may take without a heartbeat."""
        return SILENT_PHASE_FACTOR if self.is_silent else 1


_SILENT = {
    *(Phase.STARTING, Phase.FETCH, Phase.PREPARE, Phase.TOKENIZE, Phase.JOIN, Phase.START, Phase.LOAD),
    *(Phase.VERIFY, Phase.EXPORT, Phase.PUBLISH, Phase.DONE),
}
# A model may first have to be downloaded.
SILENT_PHASE_FACTOR = 10
