"""Tables and the report page, made from the files of the earlier stages.

collect, runs              read and check the results of the earlier stages
tables, tables_layout      Table II and the fusion metrics
test_sets, test_sets_layout   Tables I and III: methods on sets of pairs without boxes
errors, costs              kinds of errors and confusion, what each row cost
as_is, compare             detectors that were not retrained; finished runs side by side
verdict                    what is concluded from Table II
page, page_tables, page_charts, scenes, charts   the report page and its pieces
figures                    the paper's figures
render, paper              how numbers are printed; the paper's own numbers
"""
