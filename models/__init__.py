"""Networks, one file a paper. They take tensors, not batches."""
