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


def own_weights(model: SentenceTransformer) -> Weights:
    """The weights in the model itself, those of tied layers once."""
    floats = ((name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point())
    return dict({tensor.data_ptr(): (name, tensor) for name, tensor in floats}.values())


def host_copy(weights: Weights) -> Weights:
    """A copy in host memory."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}


@torch.no_grad()
def interpolate(weights: Weights, base: Weights, trained: Weights, alpha: float) -> None:
    """Set weights to `base + alpha (trained - base)`, in place.

    Args:
        weights: in the model; those that are not trained may be left out.
        base: of the model that was fine-tuned.
        trained: after training; may be `weights` itself.
        alpha: fraction of the trained weights, from 0 to 1.
    """
    for name, weight in weights.items():
        weight.copy_(torch.lerp(base[name].to(weight), trained[name].to(weight), alpha))
