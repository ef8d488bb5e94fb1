"""Papers whose tables and figures can be made again: which study is which of them. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    label: str
    """What the paper calls it."""
    title: str
    study: str
    rows: tuple[str, ...] = ()
    """Of the study; (): all."""

    @property
    def heading(self) -> str:
        return f"{self.label}: {self.title}"


@dataclass(frozen=True)
class Paper:
    title: str
    parts: tuple[Part, ...]
    """The base of the first is the run that the figures look at."""


PAPERS = {
    "tiger": Paper(
        "Recommender Systems with Generative Retrieval (TIGER, Rajput et al. 2023)",
        (
            Part("Table 9", "three seeds on three catalogues", "tiger"),
            Part("Table 2", "RQ-VAE, LSH and random semantic IDs", "tokenizers_tiger"),
            Part("Table 5", "layers", "tiger_sizes", ("4 layers", "3 layers", "5 layers")),
            Part("Table 8", "user tokens", "tiger_sizes", ("4 layers", "no user tokens")),
            Part("Table 10", "IDs of several catalogues", "tiger_combined"),
            Part("Figure 5", "items that training never saw", "tiger_cold"),
        ),
    )
}
