"""cornac's TIGER on our semantic IDs. Runs under the interpreter of a second environment, which holds cornac.

A worker: one JSON job per line on stdin, one JSON answer per line on stdout, so that its rounds can be interleaved with
ours. It uses cornac's own training loop, iterator, model and beam search; the tokenizer is replaced by given codes.

Equal to ours: codes, users, split, 20 items of history, d 128, 4 + 4 layers, 6 heads x 64, MLP 1024 ReLU, dropout 0.1,
batch size, AdamW. Not equal, and not an option there: no user token; one head a level instead of one over the whole
vocabulary; left-padded batches in user order; one user at a time in the beam search, without a KV cache; fp32 only.
"""

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cornac.models.tiger.recom_tiger as tiger
import numpy as np
import torch
from cornac.data import SequentialDataset
from cornac.models.seq_utils import session_seq_iter


class Clock:
    """cornac's batch iterator, stopped after a number of batches or CPU-seconds, which it measures."""

    def __init__(self) -> None:
        self.batches: int | None = None
        self.budget_s = float("inf")
        self.samples = 0
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        start = time.process_time()
        self.samples = 0
        for batch in islice(session_seq_iter(*args, **kwargs), self.batches):
            if time.process_time() - start > self.budget_s:
                break
            self.samples += len(batch[1])
            yield batch
        self.seconds = time.process_time() - start


class GivenCodes(tiger.TIGER):
    """TIGER with given semantic IDs (N, L), whose last level is the collision digit (it appends the same one)."""

    def __init__(self, codes_NL: np.ndarray, **kwargs: Any) -> None:
        super().__init__(
            rqvae_num_levels=codes_NL.shape[1] - 1, rqvae_codebook_size=int(codes_NL[:, :-1].max()) + 1, **kwargs
        )
        self.codes_NL = codes_NL

    def _get_item_features(self) -> np.ndarray:
        return np.zeros((len(self.codes_NL), 1), dtype="float32")

    def _tokenize(self, torch: Any, feats_t: Any) -> np.ndarray:
        return self.codes_NL[:, :-1]

    def _build_semantic_ids(self, codes: np.ndarray) -> None:
        super()._build_semantic_ids(codes)
        if not np.array_equal(self.sid_table, self.codes_NL):
            raise SystemExit("cornac made other semantic IDs than it was given")


class Worker:
    """The catalogue, and one fitted model at a time."""

    def __init__(self, path: str) -> None:
        data = np.load(path)
        self.codes_NL = data["codes"]
        self.users = np.split(data["items"], data["offsets"][1:-1])
        rows = [(u, u, int(i), t) for u, items in enumerate(self.users) for t, i in enumerate(items[:-2])]
        same = OrderedDict((item, item) for item in range(len(self.codes_NL)))
        self.train_set = SequentialDataset.build(rows, fmt="USIT", global_iid_map=same, seed=0)
        tiger.session_seq_iter = self.clock = Clock()

    def train(
        self, batch_size: int, batches: int | None = None, budget_s: float = float("inf"), lr: float = 1e-3
    ) -> dict[str, float]:
        """Trains a fresh model within one epoch; samples and CPU-seconds, data included."""
        self.clock.batches, self.clock.budget_s = batches, budget_s
        self.model = GivenCodes(
            self.codes_NL, batch_size=batch_size, learning_rate=lr, n_epochs=1, device="cpu", seed=0
        )
        self.model.fit(self.train_set)
        return {"samples": self.clock.samples, "seconds": self.clock.seconds}

    def beam(self, users: list[int], num_beams: int) -> dict[str, float]:
        """Ranks the catalogue by beam search for the last item of every user; hits in the top 10 and CPU-seconds."""
        self.model.n_beams = num_beams
        start = time.process_time()
        hits = 0
        for user in users:
            history, target = self.users[user][:-1], self.users[user][-1]
            ranked, _ = self.model.rank(user, k=10, history_items=history.tolist())
            hits += int(target in ranked[:10])
        return {"users": len(users), "seconds": time.process_time() - start, "recall_at_10": hits / len(users)}

    def nats(self, users: list[int]) -> dict[str, float]:
        """Mean negative log-likelihood of the users' last items (nats; softmax over each level's own codes)."""
        model, width = self.model, self.model.max_len
        rows = [np.pad(self.users[u][:-1][-width:], (width, 0), constant_values=model.pad_idx)[-width:] for u in users]
        tokens = torch.as_tensor(model.enc_token_table[np.stack(rows)].reshape(len(users), -1))
        targets = torch.as_tensor(model.sid_table[[self.users[u][-1] for u in users]])
        with torch.no_grad():
            return {"nats": model.model.eval()(tokens, (tokens != 0).float(), targets).item()}


def main() -> None:
    torch.set_num_threads(1)
    worker = Worker(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(getattr(worker, job.pop("job"))(**job)), file=answers, flush=True)


if __name__ == "__main__":
    main()
