"""The page's charts: which intervals they draw."""

import pandas as pd

from reports.page_charts import average_bounds


def test_intervals_replace_the_seeds_range():
    table = pd.DataFrame({"variant": ["visible", "fnet"], "Average_low": [0.49, 0.52], "Average_high": [0.51, 0.54]})
    assert average_bounds(table, None) == {"visible": (0.49, 0.51), "fnet": (0.52, 0.54)}
    bounds = {"visible": {"low": 0.45, "high": 0.55}, "fnet": {"low": None, "high": None}}
    significance = {"variants": {name: {"Average": values} for name, values in bounds.items()}}
    assert average_bounds(table, significance) == {"visible": (0.45, 0.55)}
