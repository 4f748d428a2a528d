"""What is free on a device, and how large a tile of scores may be there."""

import torch

SCORES_ON_CPU = 2**24  # 64 MiB of fp32, and little enough for a large cache
# Beside a tile there are its ranking, what is compared with it, and a matrix product's own space.
SHARE_OF_GPU = 1 / 16
MOST_SCORES = 2**30
BYTES = 4


def free_gpu_bytes(device: torch.device) -> int:
    """Bytes of a GPU that nobody has, or torch's allocator without using them."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def scores_at_once(device: torch.device) -> int:
    """How many scores in fp32 a tile may hold: a CPU wants them in reach, a GPU few and large tiles."""
    if device.type != "cuda":
        return SCORES_ON_CPU
    return min(MOST_SCORES, max(SCORES_ON_CPU, int(SHARE_OF_GPU * free_gpu_bytes(device)) // BYTES))
