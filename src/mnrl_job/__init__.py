"""Fine-tune a retrieval model on your own pairs, prove the gain and lose nothing on the way."""

__version__ = "0.1.0"
