"""Plan a run of the workflow from the configuration, before anything is computed.

The Snakefile makes a `Plan` once, and its rules get file lists and options from it. Methods and datasets are passed as
arguments; this package imports none of them. It reads no images and loads no networks, because Snakemake parses the
Snakefile again in every job.

    plan            the whole plan, made from the configuration, the table of methods and the dataset
    configuration   checks of the configuration that the schema cannot express
    methods         the methods of a run and their weights
    own             one method or metric of the user: its definition, and the files that determine its results
    own_methods     all methods and metrics of the user in a run: options, files and checks
    sources         the folders and lists that jobs read
    targets         the files that jobs make
    machine         cores and GPUs
    imports         the modules that a module imports
    digests         digests of code, by which jobs run again when it changes
    words           options as words of a command, and the text of the plan

Snakemake resolves paths that begin with `<results>`. Commands and file tests that need the folder itself use
`config["pathvars"]["results"]`.
"""
