"""The tokens of a batch plan as files, in the order of training."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenShards:
    """Arrow files, each with the tokens of so many consecutive steps.

    Attributes:
        uri: folder or `s3://` prefix of the files.
        steps_per_shard: the last shard may have fewer.
        sha256: of each file.
        fingerprint: of what decides the tokens of a text.
        sample: token ids of the shortest and of the longest text of a sample.
        largest_slices: tokens of the largest part of a step, divided over 1, 2, 4, … ranks.
        negatives_per_step: mean number of negatives that come with the rows of a step.
    """

    uri: str
    steps_per_shard: int
    sha256: tuple[str, ...]
    fingerprint: str
    sample: tuple[tuple[int, ...], ...]
    largest_slices: tuple[int, ...]
    negatives_per_step: float

    @staticmethod
    def name(index: int) -> str:
        return f"{index:06}.arrow"
