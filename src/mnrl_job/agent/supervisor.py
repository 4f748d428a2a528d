"""The agent's connection to its supervisor: messages come in by standard input, the status goes out as a file."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mnrl_job.agent.messages import GroupState
from mnrl_job.errors import by_kind
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.node_agent import NEWEST, AgentStatus, SupervisorMessage
from mnrl_job.system.record_files import write_record

POLL_SECONDS = 0.05
Value = TypeVar("Value")


class Supervisor:
    """The supervisor of this node, as its agent sees it; `path` is the file of the agent's status.

    While a method waits it calls `check`, which raises to stop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = AgentStatus()
        self._messages: list[SupervisorMessage] = []
        threading.Thread(target=self._receive, daemon=True).start()

    def wait_for_fingerprint(self, check: Callable[[], None]) -> Fingerprint:
        return self._wait(lambda message: message.fingerprint, check)

    def request_task(self, state: GroupState | None, check: Callable[[], None]) -> str | None:
        """Have the supervisor write the task of a round's workers, with the checkpoint to resume from.

        Args:
            state: of a round that has started; None at node 0, which picks the newest checkpoint before.
            check: called while waiting.

        Returns:
            The checkpoint's name, None to start from the beginning.
        """
        request = self._status.task_request + 1
        self.update(task_request=request, checkpoint=state.checkpoint if state else NEWEST)
        return self._wait(lambda message: message if message.task_request == request else None, check).checkpoint

    def update(self, **changes: Any) -> None:
        """Change the status that the supervisor reads, see `AgentStatus`."""
        self._status = replace(self._status, **changes)
        write_record(self._path, self._status)

    def wait_until_published(self, check: Callable[[], None]) -> None:
        self._wait(lambda message: message.is_published or None, check)

    def check(self) -> None:
        """Return unless the supervisor failed.

        Raises:
            JobError: its failure.
        """
        for message in list(self._messages):
            if message.failure:
                raise by_kind(**message.failure)

    def _wait(self, find: Callable[[SupervisorMessage], Value | None], check: Callable[[], None]) -> Value:
        while True:
            for message in list(self._messages):
                if (value := find(message)) is not None:
                    return value
            self.check()
            check()
            time.sleep(POLL_SECONDS)

    def _receive(self) -> None:
        for line in sys.stdin:
            self._messages.append(TypeAdapter(SupervisorMessage).validate_json(line))
