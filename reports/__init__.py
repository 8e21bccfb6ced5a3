"""Tables and the report page, built from the files of the earlier stages.

collect, runs                                   read and check the results of the earlier stages
tables, tables_layout                           Table II and the fusion metrics
test_sets, test_sets_layout                     Tables I and III: fusion methods on test sets without boxes
conditions, truths                              Table II by condition, and by label set
errors, costs, robustness                       error types and confusion, cost of each row, corrupted bands
as_is, compare                                  detectors that were not retrained; finished runs side by side
inside                                          rows of fusion inside or after the detector
verdict, means, correlation                     conclusions from Table II and from the fusion metrics
page, page_tables, page_charts, scenes, charts  the report page
figures                                         the paper's figures
render, paper                                   how numbers are printed; the paper's own numbers
"""
