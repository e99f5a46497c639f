"""Floor 0: shapes, the mask algebra, `SetBatch`, and the contracts between rooms."""
