"""Tables and the report page, made from the files of the earlier stages."""
