"""What a set is: shapes, masks, batches, and the contracts of what works on them."""

from setflow.sets.batch import SetBatch

__all__ = ["SetBatch"]
