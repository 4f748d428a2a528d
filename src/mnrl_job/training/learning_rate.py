"""The learning rate of a run that gives none: from the steps of an epoch, the size of the model, and LoRA."""

from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings

# Chosen on the grid of benchmarks/learning_rate.py, see docs/recipes.md; the bounds are those of common practice.
REFERENCE_RATE, REFERENCE_STEPS = 1e-4, 32
LOWEST, HIGHEST = 2e-5, 2e-4
# Not measured beyond the sizes of the grid: recipes of larger models use about half the rate at ten times the size.
REFERENCE_PARAMETERS = 22.7e6
SIZE_EXPONENT = 0.25
# An adapter needs about ten times the rate of full fine-tuning (Schulman et al. 2025, LoRA Without Regret).
LORA_FACTOR = 10


def auto_learning_rate(steps: int, parameters: int, lora: bool) -> float:
    """Higher for fewer steps, which must go as far, lower for larger models. Rounded to two significant digits.

    Args:
        steps: of an epoch. More epochs are there to learn more, not to learn the same more slowly.
        parameters: of the model, without adapter.
        lora: whether an adapter is trained.
    """
    rate = min(max(REFERENCE_RATE * (REFERENCE_STEPS / steps) ** 0.5, LOWEST), HIGHEST)
    size = (REFERENCE_PARAMETERS / parameters) ** SIZE_EXPONENT
    return float(f"{min(size, 1.0) * rate * (LORA_FACTOR if lora else 1):.1e}")


def choose_learning_rate(settings: Settings, model: SentenceTransformer, steps: int) -> float:
    """The learning rate of the settings, or that of the rule for this number of steps in an epoch."""
    if settings.learning_rate != "auto":
        return settings.learning_rate
    parameters = sum(weight.numel() for weight in model.parameters())
    return auto_learning_rate(steps, parameters, settings.lora_rank is not None)
