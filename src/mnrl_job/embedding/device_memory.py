"""Free memory of a device, and the size of a tile of scores."""

import torch

CPU_SCORES = 2**24  # 64 MiB of fp32, which fits a large cache
# Besides the tile, memory is needed for its ranking, the masks and the matrix product's workspace.
GPU_FRACTION = 1 / 16
MAX_SCORES = 2**30
BYTES_PER_SCORE = 4
# For queries that are ranked at once.
CPU_BLOCK_BYTES, GPU_BLOCK_FRACTION = 2**28, 1 / 4


def free_gpu_bytes(device: torch.device) -> int:
    """Bytes of a GPU that are free, or reserved but unused by torch's allocator."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def scores_per_tile(device: torch.device) -> int:
    """Number of fp32 scores of a tile: cache-sized on a CPU, few and large tiles on a GPU."""
    if device.type != "cuda":
        return CPU_SCORES
    return min(MAX_SCORES, max(CPU_SCORES, int(GPU_FRACTION * free_gpu_bytes(device)) // BYTES_PER_SCORE))


def block_bytes(device: torch.device) -> int:
    """Memory for a block of queries with their results: the more, the less often all documents are read."""
    if device.type != "cuda":
        return CPU_BLOCK_BYTES
    return max(CPU_BLOCK_BYTES, int(GPU_BLOCK_FRACTION * free_gpu_bytes(device)))
