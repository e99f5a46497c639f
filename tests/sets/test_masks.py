"""Masks of any dtype, ranks, and zeros in padding."""

from __future__ import annotations

import pytest
import torch

import setflow
from each import each
from setflow.sets.masks import as_mask, rank_of_real, zero_padding


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_masks_of_any_dtype(dtype):
    mask = torch.tensor([[1, 0, 1]], dtype=dtype)
    assert torch.equal(as_mask(mask), torch.tensor([[True, False, True]]))


def test_rank_counts_real_objects():
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]).bool()
    assert rank_of_real(mask)[mask].tolist() == [0, 1, 2, 0, 1]


def test_zero_padding_keeps_real_values_and_gradients():
    x = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]], requires_grad=True)
    mask = torch.tensor([True, False])
    out = zero_padding(x, mask)
    out.sum().backward()
    assert out.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@each("lengths", [[3, 1], [2, 2], torch.tensor([3.0, 0.0])])
def test_numbers_of_objects_are_no_mask(lengths):
    x, hint = torch.zeros(2, 3, 2), r"become the mask .* by torch\.arange\(x\.shape\[-2\]\) < len"
    with pytest.raises(ValueError, match=hint):
        setflow.SetBatch(x, lengths)
    with pytest.raises(ValueError, match=hint):
        setflow.masked_fm_loss(setflow.GaussianSetField([0, 0], [1, 1]), x, x, lengths)
