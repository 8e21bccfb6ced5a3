"""Whether the fusion metrics predict the detector's score: rank correlations over the methods, and in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, spearmanr

from reports.verdict import printed_p


def rank_correlations(points: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return Spearman's rank correlation of each fusion metric with Average, over the methods that have both.

    Its p is two-sided: over all orders of the methods where those are at most 8, else over 9,999 drawn ones. NaN where
    fewer than three methods have both, or all values of one are alike.
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
    """Return, in words, whether the fusion metrics of this run predict the detector's score."""
    known = [entry for entry in correlations if not math.isnan(entry["rho"])]
    if not known:
        return "Too few methods to correlate the fusion metrics with the detector's score: three are needed."
    count = max(entry["methods"] for entry in known)
    said = ", ".join(f"{e['metric'].replace('_', ' ')} {e['rho']:+.2f} (p {printed_p(e['p'])})" for e in known)
    sure = [entry["metric"] for entry in known if entry["p"] * len(known) < 0.05]
    told = (
        f"After correction for their number, {', '.join(sure)} can be told from no correlation."
        if sure
        else "None can be told from no correlation"
        + (f": {count} methods are too few for it." if count < 6 else ", after correction for their number.")
    )
    return f"Spearman's rank correlation with mAP over {count} methods: {said}. {told}"
