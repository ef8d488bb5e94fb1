"""Legend: N items, D width."""

import numpy as np
import torch

from sid.vectors import centred


def test_what_all_vectors_have_in_common_is_gone_whatever_their_lengths() -> None:
    draws = np.random.default_rng(0)
    vectors_ND = (draws.normal(3, 1, (50, 8)) * draws.uniform(1, 9, (50, 1))).astype(np.float32)
    found_ND = centred(vectors_ND)
    unit_ND = np.stack([vector_D / np.linalg.norm(vector_D) for vector_D in vectors_ND])
    np.testing.assert_allclose(found_ND, unit_ND - unit_ND.mean(0), atol=1e-6)
    torch.testing.assert_close(found_ND.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(centred(2 * vectors_ND), found_ND)


def test_bytes_and_a_vector_of_zeros_have_a_place() -> None:
    found_ND = centred(np.array([[3, 4], [0, 0]], dtype=np.int8))
    torch.testing.assert_close(found_ND, torch.tensor([[0.3, 0.4], [-0.3, -0.4]]))
