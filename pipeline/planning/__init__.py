"""What a run of the workflow consists of, worked out from the configuration before anything is computed.

The Snakefile makes a `Plan` once and its rules ask it for file lists and options. Methods and data sets are handed in:
this package knows none of them. It reads no image and loads no network, because Snakemake reads the Snakefile again in
every job.

    plan            the whole: made from the configuration, the table of methods and the data set
    configuration   what the schema cannot check
    methods         which methods run, and with which weights
    own             the user's own methods and metrics: what they are, and the files that they are made of
    doors           the same as options, files and checks of the workflow
    sources         the folders and lists that jobs read
    targets         the files that jobs make
    machine         cores and GPUs
    imports         which modules a module imports
    digests         what makes a job run again when the code changes
    words           options as words, and the plan's text

A path that begins with `<results>` is resolved by Snakemake; where a command or a file test needs the folder itself,
it is `config["pathvars"]["results"]`.
"""
