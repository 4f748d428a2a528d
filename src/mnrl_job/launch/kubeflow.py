"""Progress for Kubeflow Trainer: a TrainJob's pods are told by three variables where to report it.

The format is that of its controller, as `transformers.KubeflowCallback` sends it; ours comes from the supervisor, so
that it covers the whole run and says 100 % only once the run is published.
"""

import os
import ssl
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnrl_job.system.json_text import dumps

URL, CERTIFICATE, TOKEN = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
SECONDS_BETWEEN_REPORTS = 5.0
REQUEST_SECONDS = 5.0
METRICS = ("phase", "step", "total_steps", "loss", "pairs_per_second", "gpu_memory_bytes", "checkpoint_step")


@dataclass(slots=True)
class Reporter:
    """Sends the newest progress now and then from a thread of its own; what cannot be sent is let go."""

    url: str
    _newest: dict[str, Any] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @classmethod
    def from_environment(cls) -> "Reporter | None":
        """None where no controller listens."""
        url = os.environ.get(URL)
        return cls(url) if url else None

    def report(self, progress: dict[str, Any]) -> None:
        """Send this soon, unless something newer comes."""
        self._newest = progress
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send what has not been sent."""
        self._ended.set()
        if self._thread:
            self._thread.join(2 * REQUEST_SECONDS)

    def _follow(self) -> None:
        while True:
            last = self._ended.is_set()
            progress, self._newest = self._newest, None
            if progress:
                with suppress(OSError, ValueError):
                    self._send(progress)
            if last:
                return
            self._ended.wait(SECONDS_BETWEEN_REPORTS)

    def _send(self, progress: dict[str, Any]) -> None:
        status: dict[str, Any] = {
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
            "progressPercentage": progress["percent"],
            "metrics": [{"name": name, "value": str(progress[name])} for name in METRICS if name in progress],
        }
        if "eta_seconds" in progress:
            status["estimatedRemainingSeconds"] = progress["eta_seconds"]
        request = urllib.request.Request(  # noqa: S310 - the controller's own address
            self.url, dumps({"trainerStatus": status}).encode(), self._headers(), method="POST"
        )
        certificate = os.environ.get(CERTIFICATE)
        trusted = ssl.create_default_context(cafile=certificate) if certificate else None
        urllib.request.urlopen(request, timeout=REQUEST_SECONDS, context=trusted).close()  # noqa: S310

    def _headers(self) -> dict[str, str]:
        """The token is read anew: a pod's tokens rotate."""
        path = os.environ.get(TOKEN)
        token = Path(path).read_text(encoding="utf-8").strip() if path else ""
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
