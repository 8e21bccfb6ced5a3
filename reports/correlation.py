"""Rank correlations of the fusion metrics with the detector's score over the methods, and a sentence about them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, spearmanr

from reports.verdict import printed_p


def rank_correlations(points: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return Spearman's rank correlation of each fusion metric with Average, over the methods that have both.

    The p value is two-sided, from all permutations of the methods if there are at most 8 of them, else from 9,999
    random ones. Both are NaN if fewer than three methods have both values, or if all values of one are equal.
    """
    listed = []
    for metric in metrics:
        both = points[[metric, "Average"]].dropna()
        rho = p = math.nan
        if len(both) >= 3 and both.nunique().min() > 1:
            average = both["Average"].to_numpy()
            rho = float(spearmanr(both[metric], average).statistic)
            p = float(
                permutation_test(
                    (both[metric].to_numpy(),),
                    lambda values: spearmanr(values, average).statistic,  # noqa: B023
                    permutation_type="pairings",
                    n_resamples=math.factorial(8) if len(both) <= 8 else 9999,
                    random_state=np.random.default_rng(0),
                ).pvalue
            )
        listed.append({"metric": metric, "methods": len(both), "rho": rho, "p": p})
    return listed


def correlation_sentence(correlations: Sequence[Mapping[str, Any]]) -> str:
    """Return sentences on whether the fusion metrics of this run predict AP."""
    known = [entry for entry in correlations if not math.isnan(entry["rho"])]
    if not known:
        return "Too few methods to correlate the fusion metrics with AP: at least three are needed."
    count = max(entry["methods"] for entry in known)
    said = ", ".join(f"{e['metric'].replace('_', ' ')} {e['rho']:+.2f} (p {printed_p(e['p'])})" for e in known)
    sure = [entry["metric"] for entry in known if entry["p"] * len(known) < 0.05]
    tested = (
        f"After correction for the number of metrics, the correlation of {', '.join(sure)} is significant (p < 0.05)."
        if sure
        else "No correlation is significant"
        + (f": {count} methods are too few." if count < 6 else " after correction for the number of metrics.")
    )
    return f"Spearman's rank correlation with mAP over {count} methods: {said}. {tested}"
