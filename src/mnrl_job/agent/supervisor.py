"""The agent's line to its supervisor: orders come in by standard input, answers go out by a file, both JSON."""

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
from mnrl_job.launch.node_agent import NEWEST, AgentStatus, Order
from mnrl_job.system.record_files import write_record

POLL_SECONDS = 0.05
Answer = TypeVar("Answer")


class Supervisor:
    """What the supervisor of this node has ordered so far.

    Args:
        path: the file for answers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = AgentStatus()
        self._orders: list[Order] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for_training(self, check: Callable[[], None]) -> Fingerprint:
        """Until the data is prepared.

        Args:
            check: called while waiting; raises with what this node ends.
        """
        return self._wait(lambda order: order.fingerprint, check)

    def prepare_round(self, state: GroupState | None, check: Callable[[], None]) -> str | None:
        """Have the task of a round's workers written, with the checkpoint that they go on from.

        Args:
            state: of a round that has begun; None at node 0, which decides for the newest checkpoint before.
            check: called while waiting; raises with what this node ends.

        Returns:
            The checkpoint's name, None where they begin at the beginning.
        """
        question = self._status.question + 1
        self._tell(question=question, checkpoint=state.checkpoint if state else NEWEST)
        return self._wait(lambda order: order if order.answer == question else None, check).checkpoint

    def tell_trained(self) -> None:
        """That the workers ended well."""
        self._tell(has_trained=True)

    def tell_published(self) -> None:
        """That node 0 has published the run."""
        self._tell(is_published=True)

    def wait_until_published(self, check: Callable[[], None]) -> None:
        """Until this supervisor has published the run, or knows that it is.

        Args:
            check: called while waiting; raises with what this node ends.
        """
        self._wait(lambda order: order.is_published or None, check)

    def check(self) -> None:
        """Return unless the supervisor failed.

        Raises:
            JobError: it did.
        """
        for order in list(self._orders):
            if order.failure:
                raise by_kind(**order.failure)

    def _tell(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
        write_record(self._path, self._status)

    def _wait(self, find: Callable[[Order], Answer | None], check: Callable[[], None]) -> Answer:
        while True:
            for order in list(self._orders):
                if (found := find(order)) is not None:
                    return found
            self.check()
            check()
            time.sleep(POLL_SECONDS)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._orders.append(TypeAdapter(Order).validate_json(line))
