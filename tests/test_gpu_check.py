"""`scripts/gpu-check` as it will be started on a GPU, in small on the CPU."""

import json
import subprocess

import pytest

from tests.program import ROOT, clean_environment


def gpu_check(output, *parts):
    command = [str(ROOT / "scripts" / "gpu-check"), "--device", "cpu", "--quick", "--output", str(output), *parts]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    return ended, json.loads(output.read_text()) if output.exists() else None


@pytest.mark.slow
def test_steps_and_the_retreat_from_out_of_memory_are_told_part_by_part(tmp_path):
    ended, content = gpu_check(tmp_path / "found.json", "memory", "speed")
    assert ended.returncode == 0, ended.stderr + json.dumps(content)
    assert list(content["parts"]) == ["memory", "speed"]
    free, capped = content["parts"]["memory"]["found"]
    assert (free["activation_recompute"], capped["activation_recompute"]) == (False, True)
    speed = {one["contestant"]: one for one in content["parts"]["speed"]["found"]}
    assert list(speed) == ["ours", "stock, fp32", "stock, bf16", "packed limit"]
    assert all(one["pairs_per_second"] > 0 and one["operations"] > 100 for one in speed.values())
    assert content["how"]["device"] == "cpu"


def test_a_part_that_nobody_knows_is_refused_with_those_there_are(tmp_path):
    ended, content = gpu_check(tmp_path / "found.json", "sped")
    assert (ended.returncode, content) == (2, None)
    assert "memory, resume, speed" in ended.stderr


def test_all_parts_together_end_within_eight_minutes(monkeypatch):
    """With 20 seconds to begin in, and to end parts that take too long."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_check as program

    assert program.LIMITS.keys() == program.PARTS.keys()
    assert sum(program.LIMITS.values()) <= 8 * 60 - 20


def test_a_part_that_takes_too_long_is_ended_and_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_check as program
    from gpu_parts import Check

    monkeypatch.setitem(program.LIMITS, "memory", 0.1)
    result = program.run_part("memory", Check("cpu", True, tmp_path))
    assert (result.ok, result.exit_code, result.found) == (False, None, [])


@pytest.mark.slow
def test_every_part_ends_well(tmp_path):
    ended, content = gpu_check(tmp_path / "found.json")
    assert ended.returncode == 0, ended.stderr + json.dumps(content)
    assert list(content["parts"]) == ["tests", "memory", "resume", "speed", "evaluation", "large"]
