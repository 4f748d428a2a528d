"""Weight interpolation: a mixture of the trained and the base weights often forgets less, and sometimes ranks better.

Wortsman et al. 2022 (WiSE-FT, arXiv 2109.01903), section 2; for embedding models Xiao et al. 2024 (LM-Cocktail, arXiv
2311.13534).
"""

import torch
from sentence_transformers import SentenceTransformer


@torch.no_grad()
def interpolate(model: SentenceTransformer, base: SentenceTransformer, alpha: float) -> None:
    """Set the weights of `model` to `base + alpha (trained - base)`, in place.

    Args:
        model: trained.
        base: the model that was fine-tuned, with the same architecture.
        alpha: fraction of the trained weights, from 0 to 1.
    """
    base_weights = base.state_dict()
    for name, weight in model.state_dict().items():
        if weight.is_floating_point():
            weight.copy_(torch.lerp(base_weights[name].to(weight), weight, alpha))
