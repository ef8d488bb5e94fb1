"""From raw files to batches of tensors."""
