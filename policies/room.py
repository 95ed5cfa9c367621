"""How many tokens go through the model at once, and what happens where memory is too small for them.

Nobody knows before how much a step takes: that depends on the model, on how many blocks are adapted, and on what else
is on the GPU. So the trainer begins with what is fast, and where an allocation fails it does the same work again in
pieces half as large. Only when the pieces cannot get smaller are blocks computed again in the backward pass instead
of kept from the forward pass (gradient checkpointing, 1604.06174): another forward of them, where the backward pass
of frozen weights costs about one, and what all rows begin with is computed for each.
"""

from dataclasses import dataclass, replace

import torch

#: Padded tokens of one forward without gradient, to begin with.
ON_CPU, ON_GPU = 2048, 32768


@dataclass(frozen=True, slots=True)
class Room:
    """What fits into memory, as far as is known."""

    tokens: int
    """Padded tokens of one forward without gradient; a piece that is trained on has half as many."""
    recomputed: bool = False
    """Whether blocks are computed again in the backward pass."""

    @property
    def trained(self) -> int:
        """Padded tokens of a piece that is trained on."""
        return self.tokens // 2


def smaller(room: Room, least: int, *, gradient: bool) -> Room | None:
    """What to try next where a piece did not fit: half the tokens, or recomputation; None where nothing is left.

    Args:
        least: padded tokens of the smallest piece there can be: the longest row, or the longest pair.
        gradient: whether the piece was trained on; without a gradient nothing is kept that could be computed again.
    """
    floor = 2 * least if gradient else least
    if room.tokens > floor:
        return replace(room, tokens=max(room.tokens // 2, floor))
    if gradient and not room.recomputed:
        return replace(room, recomputed=True)
    return None


#: How others than torch's allocator for GPUs say that memory is too small, all of them in a RuntimeError.
_SAID = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "std::bad_alloc",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: of a GPU's memory, or of the system's, for which torch has no class."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
    )
