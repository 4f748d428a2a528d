"""Weight interpolation: a mixture of the trained and the base weights often forgets less, and sometimes ranks better.

Wortsman et al. 2022 (WiSE-FT, arXiv 2109.01903), section 2; for embedding models Xiao et al. 2024 (LM-Cocktail, arXiv
2311.13534).
"""

from collections.abc import Mapping

import torch
from sentence_transformers import SentenceTransformer

# Published where `auto` has no pairs to choose on; see docs/recipes.md for what it was chosen on.
DEFAULT_ALPHA = 0.7

Weights = Mapping[str, torch.Tensor]


@torch.no_grad()
def interpolate(model: SentenceTransformer, base: Weights, trained: Weights, alpha: float) -> None:
    """Set the weights of `model` to `base + alpha (trained - base)`, in place.

    Args:
        model: with the same architecture as the base model; `trained` may be its own weights.
        base: weights of the model that was fine-tuned.
        trained: weights after training.
        alpha: fraction of the trained weights, from 0 to 1.
    """
    for name, weight in model.state_dict().items():
        if weight.is_floating_point():
            weight.copy_(torch.lerp(base[name].to(weight), trained[name].to(weight), alpha))


def copy_weights(model: SentenceTransformer) -> Weights:
    """A copy of the weights in host memory."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in model.state_dict().items()}
