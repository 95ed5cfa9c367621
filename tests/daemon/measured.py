"""What a good candidate measures: every metric the gate reads."""

GROUPS = ("sycophancy", "flattery", "over_refusal", "under_refusal", "injection")
#: 40 items of each group: four went wrong that were right, four the other way.
BATTERY = {f"{side}battery/{group}/rate": 0.2 for group in GROUPS for side in ("", "incumbent/")} | {
    f"battery/{group}/{name}": value
    for group in GROUPS
    for name, value in (("n", 40.0), ("lost", 4.0), ("gained", 4.0))
}
CONTEST = {
    "contest/prompts": 120.0,
    "contest/win_rate": 0.58,
    "contest/win_low": 0.52,
    "contest/win_high": 0.64,
    "contest/win_lc": 0.57,
    "contest/win_lc_low": 0.51,
    "contest/worst_cluster": 0.0,
    "contest/worst_cluster_high": 0.2,
    "contest/independent": 1.0,
}
#: What no iteration may go without.
REQUIRED = {
    "train/steps": 12.0,
    "train/scale": 1.0,
    "train/winner_dlogp": 0.05,
    "kl/step_token": 0.05,
    "kl/step_p99": 0.2,
    "kl/base_token": 0.1,
    "kl/base_sequence": 6.0,
    "kl/forward_base": 0.08,
    "kl/path_token": 0.15,
    "shape/repetition": 0.05,
    "incumbent/shape/repetition": 0.06,
    "shape/empty": 0.0,
    "shape/ended": 0.4,
    "incumbent/shape/ended": 0.5,
    "shape/length_ratio": 1.1,
    "shape/entropy_token": 2.0,
    "incumbent/shape/entropy_token": 2.1,
    "shape/distinct_2": 0.8,
    "incumbent/shape/distinct_2": 0.85,
    "shape/stock_phrase": 0.06,
}
HELDOUT = {
    "heldout/n_up": 12.0,
    "heldout/n_down": 10.0,
    "heldout/auc_low": 0.55,
    "heldout/auc_high": 0.85,
    "heldout_base/auc_low": 0.5,
    "heldout_base/auc_high": 0.8,
}
OTHERS = {
    "kl/cluster_max": 0.1,
    "battery/capability/rate": 0.5,
    "incumbent/battery/capability/rate": 0.5,
    "battery/capability/n": 1000.0,
    "battery/capability/lost": 20.0,
    "battery/capability/gained": 20.0,
    "battery/operator/rate": 0.0,
    "incumbent/battery/operator/rate": 0.0,
    "battery/operator/n": 6.0,
    "battery/operator/lost": 0.0,
    "battery/operator/gained": 0.0,
    "battery/anchor/nll": 2.9,
    "incumbent/battery/anchor/nll": 2.88,
}
GOOD: dict[str, float] = REQUIRED | HELDOUT | CONTEST | BATTERY | OTHERS
#: The same of contests that are held now and then only.
RECHECKED = {
    f"{contest}/{name}": value
    for contest in ("contest_base", "contest_golden")
    for name, value in (("prompts", 40.0), ("win_rate", 0.55), ("win_low", 0.45), ("win_high", 0.65))
}
