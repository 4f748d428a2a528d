"""Elastic runs whose nodes are lost and come again at random: each finishes, once, having trained on the same rows.

`CHAOS_ELASTIC` says how many runs, `CHAOS_SEED` repeats a failure. Each run meets one to four incidents; a node that
ended is always started again.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import hosts
from tests.chaos.attempts import SEED, tell
from tests.chaos.chaos_run import assert_leftovers_are_removed, wait_until_no_worker_is_left
from tests.chaos.elastic import EXIT_SECONDS, INCIDENTS, SETTINGS, ElasticJob
from tests.chaos.places import Place, opened
from tests.scenes import Scene, make_scene

RUNS = int(os.environ.get("CHAOS_ELASTIC") or 8)
MOST_INCIDENTS = 4

LACKING = hosts.why_not()
pytestmark = [pytest.mark.chaos, pytest.mark.skipif(bool(LACKING), reason=LACKING)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Scene:
    return make_scene(tmp_path_factory.mktemp("elastic"), tiny_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with contextmanager(opened)("folder", tmp_path_factory) as place:
        yield place


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[hosts.Host, ...]]:
    with hosts.several_hosts(3) as hosts_:
        yield hosts_


def test_an_elastic_run_whose_nodes_are_lost_and_restarted_finishes_once(
    scene: Scene, folder: Place, machines: tuple[hosts.Host, ...]
) -> None:
    rng, started = random.Random(f"{SEED} elastic"), time.monotonic()
    alone = scene.start("alone", **SETTINGS, MNRL_OUTPUT=str(folder.root))
    assert alone.wait(EXIT_SECONDS) == 0, scene.log("alone")[-3000:]
    expected, ends = digest(folder, "alone"), Counter[str]()
    for number in range(RUNS):
        job = ElasticJob(scene, folder, f"run-{number}", rng, machines)
        with with_node_logs(job):
            play(job)
            assert digest(folder, job.name) == expected, "the rows differ from those of an undisturbed run"
            assert sum(job.log(0).count(word) for word in ("succeeded: ", "finished: ")) <= 1, "published twice"
            wait_until_no_worker_is_left(scene)
            assert_leftovers_are_removed(folder, job.name, [job.work(rank) for rank in range(len(machines))])
        ends += job.ends
        print(f"{number + 1}/{RUNS}: {'; '.join(job.history)}", flush=True)  # noqa: T201
    tell(f"{RUNS} elastic runs disturbed in {time.monotonic() - started:.0f} s", ends)


def play(job: ElasticJob) -> None:
    """Let incidents happen to a run, then wait until it is published and all nodes have succeeded."""
    job.start()
    for _ in range(job.rng.randint(1, MOST_INCIDENTS)):
        job.supervise_until_random_moment()
        incident = job.rng.choice(INCIDENTS)
        incident(job)
        job.ends[incident.__name__.replace("_", " ")] += 1
    job.supervise(EXIT_SECONDS)
    assert job.is_done(), "it does not finish"
    assert job.is_published(), "all nodes succeeded, but nothing is published"


def digest(place: Place, run: str) -> str:
    """The digest of the rows in the order of training."""
    digest: str = json.loads(place.read(run, "metrics.json"))["training"]["rows_digest"]
    return digest


@contextmanager
def with_node_logs(job: ElasticJob) -> Iterator[None]:
    """Add the history and logs of all nodes to an exception, and kill them in the end."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{job.name}: {'; '.join(job.history)}, seed {SEED}")
        for rank in range(len(job.hosts)):
            error.add_note(f"node {rank}:\n{job.log(rank)[-3000:]}")
        raise
    finally:
        for node in job.nodes:
            node.kill()
