"""Events at the entrance of a verb."""

from __future__ import annotations

import pytest
import torch

from setflow.sets.shapes import (
    expand_time,
)


def test_time_is_expanded_to_the_lead_shape():
    like = torch.zeros((), dtype=torch.float32)
    for t in (0.5, torch.tensor(0.5), torch.full((2, 3), 0.5)):
        assert torch.equal(
            expand_time(t, (2, 3), like), torch.full((2, 3), 0.5, dtype=torch.float32)
        )
    with pytest.raises(ValueError, match="one time per event"):
        expand_time(torch.zeros(3), (2, 3), like)
