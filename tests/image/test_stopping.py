"""A container that is asked to stop saves its work, ends in time with 75, and the next one finishes the run."""

import json
import re
import time
from typing import Any

import pytest

from tests.image.containers import ARBITRARY_USER, LONG, Container, Image, checkpoints, docker, signal_worker

pytestmark = pytest.mark.image

GRACE_SECONDS = 30


def progress(container: Container) -> dict[str, Any]:
    """What the run says of itself, as a probe reads it."""
    told = container.inside("/work/progress.json")
    return json.loads(told) if told else {}


@pytest.mark.parametrize("how", [("kill", "--signal", "TERM"), ("stop", "-t", str(GRACE_SECONDS))])
def test_it_ends_with_75_and_the_next_container_finishes_the_run(image: Image, how):
    container = image.start(user=ARBITRARY_USER, **LONG)
    container.until(lambda: progress(container).get("step", 0) > 20)
    began = time.monotonic()
    docker(*how, container.name)
    ended = container.end()
    took = time.monotonic() - began
    assert ended.code == 75, ended.stderr
    assert took < GRACE_SECONDS
    assert checkpoints(image)
    failure = json.loads((image.folder / "output" / "r" / "failure.json").read_text())
    assert (failure["class"], failure["retry_helps"]) == ("preempted", True)

    again = image.run(user=ARBITRARY_USER, **LONG)
    assert again.code == 0, again.stderr
    went_on = re.search(r"resuming from step (\d+)", again.stderr)
    assert went_on, again.stderr
    assert int(went_on[1]) >= failure["step"] > 20
    run = image.folder / "output" / "r"
    assert (run / "_SUCCESS").exists()
    attempts = json.loads((run / "metrics.json").read_text())["run"]["attempts"]
    assert [one["outcome"] for one in attempts] == ["preempted", "succeeded"]
    assert attempts[0]["steps_lost"] == 0


def test_docker_stop_during_the_start_is_answered_at_once(image: Image):
    container = image.start(user=ARBITRARY_USER, **LONG)
    container.until(lambda: container.execute("true").returncode == 0)
    began = time.monotonic()
    docker("stop", "-t", str(GRACE_SECONDS), container.name)
    assert container.end().code == 75
    assert time.monotonic() - began < GRACE_SECONDS / 2


def test_health_follows_the_run_and_not_the_process(image: Image):
    settings = LONG | {"MNRL_EPOCHS": "20000", "MNRL_HANG_TIMEOUT": "1h"}
    container = image.start(user=ARBITRARY_USER, flags=("--health-interval", "1s"), **settings)
    try:
        container.until(lambda: progress(container).get("phase") == "train")
        container.until(lambda: health(container) == "healthy")
        signal_worker(container, "SIGSTOP")
        long_ago = json.dumps(progress(container) | {"updated_at": "2026-01-01T00:00:00Z"})
        time.sleep(2)  # until the supervisor has written what it knew
        assert container.execute("sh", "-c", f"echo '{long_ago}' >/work/progress.json").returncode == 0
        container.until(lambda: health(container) == "unhealthy")
    finally:
        docker("kill", container.name)
        container.end()


def health(container: Container) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container.name)
