"""Lists that are drawn at a temperature: how varied they are, and what that costs (TIGER, section 4.3, Tables 3 and 4).

Legend: B users.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from callbacks.metrics import EntropyDiversity, RankMetrics
from datamodules.sequences import SequenceDataModule
from experiments.config import EvaluationConfig
from experiments.figures import COLOURS, NORMAL, Panel, draw, finish
from sid.decode import beam_search
from sid.sampling import Sampler, Tempered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_modules.retriever import RetrieverModule
    from sid.trie import PrefixTree

TEMPERATURES = (1.0, 1.5, 2.0)
USERS = 500
"""Users of the test that lists are drawn for, evenly spaced."""


def drawn(
    module: "RetrieverModule",
    data: SequenceDataModule,
    tree: "PrefixTree",
    config: EvaluationConfig,
    category_N: torch.Tensor,
) -> dict[str, dict[str, float]]:
    """Temperature (of all levels, or of the first alone: `first 1.5`) -> entropy, Recall and NDCG of drawn lists.

    Items are drawn without replacement, as many as are evaluated, in the order of the draws. Every process draws all of
    them, so that sums over processes change no mean.
    """
    levels, device = tree.num_levels, module.device
    tree = tree.to(device)
    settings = {f"{t:g}": [t] * levels for t in TEMPERATURES}
    settings |= {f"first {t:g}": [t] + [1.0] * (levels - 1) for t in TEMPERATURES if t != 1}
    batches = [batch.to(device) for batch in data.some_tests(USERS)]
    found = {}
    for name, temperatures in settings.items():
        metrics = [
            RankMetrics([10], [10]).to(device),
            EntropyDiversity(category_N, [10]).to(device),
        ]
        for batch in batches:
            with torch.inference_mode():
                state = module.model.begin(*batch.inputs)
                model = Tempered(module.model, temperatures)
                sampler = Sampler(batch.user_B.tolist())
                lists = beam_search(model, state, tree, config.num_beams, constrained=True, sampler=sampler)
            for metric in metrics:
                metric.update(lists, batch)
        found[name] = {key: float(value) for metric in metrics for key, value in metric.compute().items()}
    return found


def panels(rows: Mapping[str, Mapping[str, float]], greedy: Mapping[str, Any]) -> list[Panel]:
    """Entropy and Recall over the temperature; nothing where nothing was drawn.

    Args:
        greedy: the metrics of the test, whose beams are the likeliest items.
    """
    if not rows:
        return []
    lines = {
        "all codes": {float(name): row for name, row in rows.items() if not name.startswith("first")},
        "first code alone": {
            float(name.removeprefix("first ")): row for name, row in rows.items() if name.startswith("first")
        },
    }
    lines["first code alone"][1.0] = lines["all codes"][1.0]
    drawings = []
    for key, title in (("entropy@10", "Entropy@10"), ("recall@10", "Recall@10")):

        def paint(ax: "Axes", key: str = key) -> None:
            for place, (label, points) in enumerate(lines.items()):
                x = sorted(points)
                ax.plot(x, [points[t][key] for t in x], "o-", color=COLOURS[place], label=label, markersize=4)
            if key in greedy:
                ax.axhline(greedy[key], color="#9498a0", linestyle=(0, (1, 1.5)), label="likeliest items")
            ax.set_xlabel("temperature")
            ax.set_ylim(bottom=0)
            finish(ax, True)

        caption = (
            f"Lists of {USERS:,} test users at most, drawn without replacement. A higher temperature should"
            " bring more kinds of item, and fewer hits; the dotted line is the beam search of the test, on all users."
            " Draws go by codes alone; where a model judges whole items besides, that search ranks by both."
        )
        drawings.append(Panel(f"{title} over the temperature", draw(f"drawn-{key[:6]}", title, NORMAL, paint), caption))
    return drawings
