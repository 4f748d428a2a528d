"""Which operations torch carries out, forward and backward: to count them, and to see who would wait for a device."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Records the operations that are carried out while it is entered.

    Attributes:
        calls: the name of each, and its arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls.append((str(func), args))
        return func(*args, **(kwargs or {}))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of one operation."""
        return [args for called, args in self.calls if called == name]
