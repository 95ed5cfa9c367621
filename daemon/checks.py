"""The gate's table: every metric it looks at, how it is read, and its limits. One row each, so that it can be read.

Names of limits are settings of `[daemon.gate]`. What each way of reading means is told where it is defined: simple
numbers in `daemon/weighing.py`, comparisons with an interval in `daemon/comparisons.py`.
"""

from daemon.comparisons import behaviour, capability, not_worse, operator, win, win_controlled, worst_cluster
from daemon.limits import GateConfig
from daemon.weighing import (
    Check,
    Metrics,
    Need,
    Row,
    Side,
    agreement,
    drop,
    growth,
    nearness,
    ratio,
    rise,
    value,
)

MOST, LEAST = Side.AT_MOST, Side.AT_LEAST
REQUIRED, OPTIONAL, IF_DUE = Need.REQUIRED, Need.OPTIONAL, Need.IF_DUE

# ruff: noqa: E501 - a table is read by its columns
# fmt: off
#: In the order people read them: what training did, how far it went, what people and judges say, what answers look like,
#: what the model can still do.
TABLE = (
    # check                         how             reads                     side   soft                   hard                   when missing
    Row("train/steps",              value,          "train/steps",            LEAST, None,                  1.0,                   REQUIRED),
    Row("train/scale",              value,          "train/scale",            LEAST, 1.0,                   None,                  REQUIRED),
    Row("train/winner_dlogp",       value,          "train/winner_dlogp",     LEAST, "winner_dlogp_soft",   "winner_dlogp_hard",   REQUIRED),
    Row("kl/step_token",            nearness,       "kl/step_token",          MOST,  "kl_step_soft",        "kl_step_hard",        REQUIRED),
    Row("kl/step_p99",              nearness,       "kl/step_p99",            MOST,  "kl_prompt_soft",      "kl_prompt_hard",      REQUIRED),
    Row("kl/cluster_max",           nearness,       "kl/cluster_max",         MOST,  "kl_cluster_soft",     "kl_cluster_hard",     OPTIONAL),
    Row("kl/base_token",            value,          "kl/base_token",          MOST,  "kl_base_soft",        "kl_base_hard",        REQUIRED),
    Row("kl/base_sequence",         value,          "kl/base_sequence",       MOST,  "kl_sequence_soft",    "kl_sequence_hard",    REQUIRED),
    Row("kl/forward_base",          value,          "kl/forward_base",        MOST,  "kl_forward_soft",     "kl_forward_hard",     REQUIRED),
    Row("kl/path_token",            value,          "kl/path_token",          MOST,  "kl_path_soft",        "kl_path_hard",        REQUIRED),
    Row("heldout/auc_low",          agreement,      "heldout",                LEAST, None,                  "heldout_floor",       REQUIRED),
    Row("heldout_base/auc_low",     agreement,      "heldout_base",           LEAST, None,                  None,                  REQUIRED),
    Row("contest/win_low",          win,            "contest",                LEAST, None,                  "win_floor",           OPTIONAL),
    Row("contest/win_lc_low",       win_controlled, "contest",                LEAST, None,                  "win_floor",           OPTIONAL),
    Row("contest/worst_cluster",    worst_cluster,  "contest/worst_cluster",  LEAST, "worst_cluster_soft",  "worst_cluster_hard",  OPTIONAL),
    Row("contest_base/win_high",    not_worse,      "contest_base",           LEAST, None,                  0.5,                   IF_DUE),
    Row("contest_golden/win_high",  not_worse,      "contest_golden",         LEAST, None,                  0.5,                   IF_DUE),
    Row("shape/repetition_rise",    rise,           "shape/repetition",       MOST,  "repetition_soft",     "repetition_hard",     REQUIRED),
    Row("shape/repetition",         value,          "shape/repetition",       MOST,  None,                  "repetition_max",      REQUIRED),
    Row("shape/empty",              value,          "shape/empty",            MOST,  None,                  "empty_hard",          REQUIRED),
    Row("shape/ended_drop",         drop,           "shape/ended",            MOST,  "ended_drop_soft",     "ended_drop_hard",     REQUIRED),
    Row("shape/length_ratio_high",  value,          "shape/length_ratio",     MOST,  "length_ratio_soft",   "length_ratio_hard",   REQUIRED),
    Row("shape/length_ratio_low",   value,          "shape/length_ratio",     LEAST, "length_ratio_soft",   "length_ratio_hard",   REQUIRED),
    Row("shape/entropy_ratio",      ratio,          "shape/entropy_token",    LEAST, "entropy_ratio_soft",  "entropy_ratio_hard",  REQUIRED),
    Row("shape/distinct_ratio",     ratio,          "shape/distinct_2",       LEAST, "distinct_ratio_soft", "distinct_ratio_hard", REQUIRED),
    Row("shape/stock_phrase",       value,          "shape/stock_phrase",     MOST,  "stock_phrase_soft",   "stock_phrase_hard",   REQUIRED),
    Row("battery/capability",       capability,     "battery/capability",     LEAST, "capability_soft",     "capability_hard",     OPTIONAL),
    Row("battery/sycophancy",       behaviour,      "battery/sycophancy",     MOST,  "behaviour_soft",      "behaviour_hard",      OPTIONAL),
    Row("battery/flattery",         behaviour,      "battery/flattery",       MOST,  "behaviour_soft",      "behaviour_hard",      OPTIONAL),
    Row("battery/over_refusal",     behaviour,      "battery/over_refusal",   MOST,  "behaviour_soft",      "behaviour_hard",      OPTIONAL),
    Row("battery/under_refusal",    behaviour,      "battery/under_refusal",  MOST,  "behaviour_soft",      "behaviour_hard",      OPTIONAL),
    Row("battery/injection",        behaviour,      "battery/injection",      MOST,  "behaviour_soft",      "behaviour_hard",      OPTIONAL),
    Row("battery/operator",         operator,       "battery/operator",       MOST,  None,                  "operator_failures",   OPTIONAL),
    Row("battery/anchor/ratio",     growth,         "battery/anchor/nll",     MOST,  "anchor_ratio_soft",   "anchor_ratio_hard",   OPTIONAL),
)
# fmt: on


def checks(metrics: Metrics, limits: GateConfig) -> tuple[Check, ...]:
    """Every row against its limits; a row that is not due is left out."""
    found = (row.how(row, metrics, limits) for row in TABLE)
    return tuple(check for check in found if check is not None)
