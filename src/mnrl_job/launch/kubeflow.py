"""Reports progress to Kubeflow Trainer, which sets three variables in the pods of a TrainJob.

The format is that of `transformers.KubeflowCallback`. The supervisor reports instead of the callback, so that progress
covers the whole run and reaches 100 % only when the run is published.
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
    """Sends the latest progress every few seconds in a background thread; failed requests are ignored."""

    url: str
    _latest: dict[str, Any] | None = None
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def report(self, progress: dict[str, Any]) -> None:
        """Send this within seconds, unless it is superseded."""
        self._latest = progress
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send the latest progress if it has not been sent, and stop."""
        self._closing.set()
        if self._thread:
            self._thread.join(2 * REQUEST_SECONDS)

    def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()
            progress, self._latest = self._latest, None
            if progress:
                with suppress(OSError, ValueError):
                    self._send(progress)
            if is_last:
                return
            self._closing.wait(SECONDS_BETWEEN_REPORTS)

    def _send(self, progress: dict[str, Any]) -> None:
        status: dict[str, Any] = {
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
            "progressPercentage": progress["percent"],
            "metrics": [{"name": name, "value": str(progress[name])} for name in METRICS if name in progress],
        }
        if "eta_seconds" in progress:
            status["estimatedRemainingSeconds"] = progress["eta_seconds"]
        headers = {"Content-Type": "application/json"}
        if path := os.environ.get(TOKEN):  # read for each request, since it rotates
            headers["Authorization"] = f"Bearer {Path(path).read_text(encoding='utf-8').strip()}"
        data = dumps({"trainerStatus": status}).encode()
        request = urllib.request.Request(self.url, data, headers, method="POST")  # noqa: S310 - the controller's URL
        certificate = os.environ.get(CERTIFICATE)
        trusted = ssl.create_default_context(cafile=certificate) if certificate else None
        urllib.request.urlopen(request, timeout=REQUEST_SECONDS, context=trusted).close()  # noqa: S310
