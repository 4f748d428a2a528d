"""The content of event files, read by TensorBoard."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name."""
    read = _read(folder)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def texts(folder: Path) -> dict[str, str]:
    """The last text of each tag; torch's writer adds a suffix to tags."""
    read = _read(folder)
    last = {tag.removesuffix("/text_summary"): read.Tensors(tag)[-1] for tag in read.Tags()["tensors"]}
    return {tag: b"".join(event.tensor_proto.string_val).decode() for tag, event in last.items()}
