"""What holds statistics of a training sample, and whether they are there.

A statistic is a buffer that is NaN until it is given or fitted. So a state dict, a checkpoint, a
model folder, a copy or the broadcast of DDP carries along whether a module is fitted, and a result
of statistics that never were is NaN and never a wrong number.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

__all__ = ["Fitted"]


class Fitted(nn.Module):
    """A module with statistics that are given or fitted before it is used.

    Attributes:
        statistics: the names of the buffers that hold NaN until then.
        given_by: the names of the arguments by which they are given.
        labels: what error messages call the features that it is given, such as "condition 'pt'".
        given: whether the statistics are those that it was built with.
        known: whether the statistics are known to be there, without a look at them, which on an
            accelerator would wait for the device.
    """

    statistics: ClassVar[tuple[str, ...]] = ()
    given_by: ClassVar[tuple[str, ...]] = ()
    labels: tuple[str, ...] = ()
    given: bool = False
    known: bool = False

    @property
    def is_fitted(self) -> bool:
        """Whether the statistics are there; they are looked at once."""
        if not self.known:
            values = [getattr(self, name) for name in self.statistics]
            self.known = not any(bool(value.isnan().any()) for value in values)
        return self.known

    @property
    def state(self) -> str:
        """Whether the statistics were given, were fitted, or are not there, in words."""
        return "given" if self.given else "fitted" if self.is_fitted else "not fitted"

    def label(self, index: int) -> str:
        """Return what error messages call a feature."""
        return self.labels[index] if self.labels else f"feature {index}"

    def require_fitted(self) -> None:
        """Raise unless the statistics are there.

        Raises:
            ValueError: if they were neither given nor fitted.
        """
        if not self.is_fitted:
            raise ValueError(
                f"{type(self).__name__} has no statistics: they were neither given nor fitted. "
                "Call fit with the training sample, or SetFlow.fit_statistics for all parts of a "
                "model"
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.known = False  # what is loaded may not be fitted
        super()._load_from_state_dict(*args, **kwargs)
