"""What an ablation switches, one row at a time: name -> overrides of the experiment. Plain data."""

from models.configs import GlassConfig

WHOLE, PLAIN = "whole model", "neither: TIGER"

GLASS = {
    "no tier token": ["model.tier=false"],
    "no search": ["model.search=false"],
    PLAIN: ["model.tier=false", "model.search=false"],
    "no neighbours": ["model.neighbours=0"],
    "neighbours below 10 items": ["model.few=10"],
    "normalised tier token": ["model.tier_norm=true"],
    "20 tiers": ["model.num_tiers=20"],
    "256 first codes": ["tokenizer.codebook_sizes=[256,128,128]"],
    "scalar gate": ["model.gate=scalar"],
    "gate fixed at 0.5": ["model.gate=fixed"],
    "sum without a gate": ["model.gate=sum"],
    "10 found": ["model.retrieved=10"],
    "100 found": ["model.retrieved=100"],
    "first code given (oracle)": ["evaluation.oracle_first_code=true"],
}

ABLATIONS = {GlassConfig: GLASS}
"""Kind of the model -> its rows. The row PLAIN, where there is one, is compared with the whole by history length."""
