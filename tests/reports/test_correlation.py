"""Rank correlations of the fusion metrics with the detector's score."""

import numpy as np
import pandas as pd
import pytest

from reports.correlation import correlation_sentence, rank_correlations


def test_rank_correlation_is_spearmans_with_an_exact_p():
    points = pd.DataFrame({"MI": [1.0, 2.0, 3.0, 4.0], "VIF": [4.0, 3.0, 2.0, 1.5], "Average": [0.1, 0.2, 0.3, 0.4]})
    mi, vif = rank_correlations(points, ["MI", "VIF"])
    assert (mi["rho"], vif["rho"]) == (1.0, -1.0)
    assert mi["p"] == vif["p"] == pytest.approx(2 / 24)  # two of the 24 orders are as extreme
    assert "4 methods are too few" in correlation_sentence([mi, vif])


def test_two_methods_have_no_rank_correlation():
    points = pd.DataFrame({"MI": [1.0, 2.0], "Average": [0.1, 0.2]})
    (entry,) = rank_correlations(points, ["MI"])
    assert np.isnan(entry["rho"])
    assert "Too few methods" in correlation_sentence([entry])
