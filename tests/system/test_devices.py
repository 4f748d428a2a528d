"""Device discovery without torch, and the effect of `CUDA_VISIBLE_DEVICES`."""

import pynvml
import pytest

from mnrl_job.errors import EnvironmentFailure
from mnrl_job.system.devices import Gpu, describe_gpus, find_devices, list_gpus, visible_gpus, worker_count

WHOLE = tuple(Gpu(f"GPU-{letter * 8}-0000-1111-2222-333333333333") for letter in "abcd")
INSTANCES = ("MIG-11111111-0000-0000-0000-000000000000", "MIG-22222222-0000-0000-0000-000000000000")
SPLIT = Gpu("GPU-eeeeeeee-0000-1111-2222-333333333333", mig_enabled=True, instances=INSTANCES)


@pytest.fixture
def machine(monkeypatch):
    """A machine with these GPUs, on which this is chosen."""

    def arrange(present, chosen=None):
        monkeypatch.setattr("mnrl_job.system.devices.list_gpus", lambda: present)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)

    return arrange


def test_there_is_one_worker_per_gpu_and_one_on_a_cpu():
    assert worker_count("auto", 4) == 4
    assert worker_count("auto", 0) == 1
    assert worker_count(2, 0) == 2


def test_more_workers_than_gpus_are_rejected():
    with pytest.raises(EnvironmentFailure, match=r"^MNRL_NUM_PROCESSES=2\b.*\b1 GPU"):
        worker_count(2, 1)


def test_fewer_gpus_than_required_are_rejected(machine):
    machine(WHOLE)
    assert find_devices("auto", min_gpus=4).workers == 4
    with pytest.raises(EnvironmentFailure, match=r"^MNRL_MIN_GPUS=8\b.*\b4 GPU.*runtimeClassName"):
        find_devices("auto", min_gpus=8)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, ["0", "1", "2", "3"]),
        ("0,2", ["0", "2"]),
        (" 3 , 1 ", ["3", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", ["1"]),
        ("GPU-bbbbbbbb-0000-1111-2222-333333333333,GPU-a", ["GPU-bbbbbbbb-0000-1111-2222-333333333333", "GPU-a"]),
    ],
)
def test_gpus_are_selected_in_the_order_of_cuda_visible_devices(machine, chosen, expected):
    machine(WHOLE, chosen)
    assert list(find_devices("auto").gpus) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, [WHOLE[0].uuid, *INSTANCES]),
        (",".join(INSTANCES), [*INSTANCES]),
        ("MIG-2", ["MIG-2"]),
        (f"MIG-{SPLIT.uuid}/7/0", [f"MIG-{SPLIT.uuid}/7/0"]),
        ("0", ["0"]),
    ],
)
def test_mig_instances_are_separate_devices(machine, chosen, expected):
    machine((WHOLE[0], SPLIT), chosen)
    assert list(visible_gpus()) == expected


def test_mig_instances_that_the_driver_does_not_list_can_be_selected(machine):
    machine((Gpu(SPLIT.uuid, mig_enabled=True),), INSTANCES[0])
    assert visible_gpus() == INSTANCES[:1]


@pytest.mark.parametrize(
    ("chosen", "unknown"),
    [
        ("0,9", "9"),
        ("4", "4"),
        ("GPU-ffffffff", "GPU-ffffffff"),
        ("GPU-", "GPU-"),
        (INSTANCES[0], INSTANCES[0]),
        ("MIG-GPU-ffffffff/1/0", "MIG-GPU-ffffffff/1/0"),
        ("gpu0", "gpu0"),
        ("0;1", "0;1"),
        ("-2", "-2"),
    ],
)
def test_an_unknown_gpu_is_rejected(machine, chosen, unknown):
    machine(WHOLE, chosen)
    with pytest.raises(EnvironmentFailure) as caught:
        find_devices("auto")
    assert caught.value.code == 78
    assert f"CUDA_VISIBLE_DEVICES={chosen}: {unknown} is not a GPU" in str(caught.value)
    assert "0, 1, 2, 3, GPU-aaaaaaaa" in str(caught.value), "the available GPUs"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chosen", ["1,1", "1,01", f"{WHOLE[0].uuid},{WHOLE[0].uuid}", f"{WHOLE[0].uuid},GPU-aa"])
def test_a_gpu_listed_twice_is_rejected(machine, chosen):
    machine(WHOLE, chosen)
    with pytest.raises(EnvironmentFailure, match=f"CUDA_VISIBLE_DEVICES={chosen}.*twice") as caught:
        find_devices("auto")
    assert caught.value.code == 78


def test_without_a_driver_no_gpu_can_be_selected(machine):
    machine((), "0,1")
    assert visible_gpus() == ()


def test_mig_instances_are_queried_and_the_driver_is_released(monkeypatch):
    """Two GPUs, the second in MIG mode with one of its places empty."""
    calls = []

    def instance(_, place):
        if place == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"instance-{place}"

    def mode(handle):
        if handle == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    for name, answer in {
        "nvmlInit": lambda: calls.append("init"),
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetUUID": lambda handle: f"uuid of {handle}",
        "nvmlDeviceGetMigMode": mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda _: 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": instance,
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    found = Gpu("uuid of 1", mig_enabled=True, instances=("uuid of instance-0", "uuid of instance-2"))
    assert list_gpus() == (Gpu("uuid of 0"), found)
    assert calls == ["init", "shutdown"]


def test_a_driver_that_does_not_respond_is_an_environment_failure(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)
    for name in ("nvmlDeviceGetCount", "nvmlSystemGetDriverVersion"):
        monkeypatch.setattr(pynvml, name, fail)
    for ask in (list_gpus, describe_gpus):
        with pytest.raises(EnvironmentFailure, match="driver does not respond"):
            ask()


@pytest.mark.gpu
def test_the_number_of_gpus_equals_that_of_torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert len(visible_gpus()) == torch.cuda.device_count()
