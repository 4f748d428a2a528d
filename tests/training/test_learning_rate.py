"""The learning rate of a run that gives none."""

import pytest

from mnrl_job.training.learning_rate import auto_learning_rate

MINILM = 22_713_216


def test_fewer_steps_smaller_models_and_adapters_get_a_higher_rate():
    rate = auto_learning_rate(100, MINILM, lora=False)
    assert auto_learning_rate(10, MINILM, lora=False) > rate > auto_learning_rate(10_000, MINILM, lora=False)
    assert auto_learning_rate(100, 5 * MINILM, lora=False) < rate
    assert auto_learning_rate(100, MINILM, lora=True) == pytest.approx(10 * rate)


@pytest.mark.parametrize("steps", [1, 10**7])
@pytest.mark.parametrize("parameters", [1_000, 8_000_000_000])
@pytest.mark.parametrize("lora", [False, True])
def test_the_rate_is_one_that_the_setting_accepts(steps, parameters, lora):
    assert 1e-6 <= auto_learning_rate(steps, parameters, lora) <= 1e-2
