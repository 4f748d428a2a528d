"""Generated training pairs."""


def generate_pairs(count, prefix="", copies=1):
    """Pairs of different anchors; `copies` consecutive pairs have near-duplicate positives."""
    for i in range(count):
        words = " ".join(f"{prefix}{i // copies}word{at}" for at in range(60))
        yield f"{prefix} question {i}", f"{words} {i % copies}"
