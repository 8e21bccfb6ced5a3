"""Tables I and III: methods and FNet's ablations on test sets without boxes."""


rule fuse_test_set:
    input:
        weights=lambda wildcards: plan.methods.weights(wildcards.entry),
        own=lambda wildcards: plan.own.files(wildcards.entry, wildcards.dataset),
        pairs=lambda wildcards: plan.sources.test_set_folders(wildcards.dataset),
    output:
        "<results>/test_sets/{treatment}/{dataset}/{entry}/manifest.csv",
    log:
        "<results>/logs/fuse_test_set-{treatment}-{dataset}-{entry}.log",
    benchmark:
        "<results>/benchmarks/fuse_test_set-{treatment}-{dataset}-{entry}.tsv"
    threads: config["threads"]
    resources:
        **plan.machine.gpu(lambda wildcards: plan.methods.on_device(wildcards.entry)),
        mem_mb=memory(4000),
        runtime=240,
    params:
        method=lambda wildcards: plan.methods.run_as(wildcards.entry),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: plan.own.options(wildcards.entry, wildcards.dataset)
        + plan.own.watch(wildcards.entry)
        + test_set_options(
            config, plan.sources.test_sets[wildcards.dataset], wildcards.treatment
        )
        + plan.sources.test_set_bands(wildcards.dataset),
        device=config["device"],
        revision=lambda wildcards: [
            plan.methods.revision(wildcards.entry),
            revision("fusion.fuse"),
        ],
    shell:
        "python -m fusion.fuse --method {params.method} {params.weights:q} {params.options:q}"
        " --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q}"
        ' --device {params.device} --threads {threads} --output "$(dirname {output:q})" 2>&1 | tee {log:q}'


rule score_test_set:
    input:
        manifest="<results>/test_sets/{treatment}/{dataset}/{entry}/manifest.csv",
        pairs=lambda wildcards: plan.sources.test_set_folders(wildcards.dataset),
    output:
        "<results>/test_sets/{treatment}/{dataset}/{entry}.csv",
    log:
        "<results>/logs/score_test_set-{treatment}-{dataset}-{entry}.log",
    benchmark:
        "<results>/benchmarks/score_test_set-{treatment}-{dataset}-{entry}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        bands=lambda wildcards: plan.sources.test_set_bands(wildcards.dataset),
        extra=plan.own.extra_options(),
        code=digest("fusion.evaluate"),
    shell:
        "python -m fusion.evaluate --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q} {params.bands:q} {params.extra:q}"
        ' --fused "$(dirname {input.manifest:q})" --workers {threads} --output {output:q} 2>&1 | tee {log:q}'


rule score_source:
    input:
        pairs=lambda wildcards: plan.sources.test_set_folders(wildcards.dataset),
    output:
        "<results>/test_sets/sources/{dataset}/{band}.csv",
    log:
        "<results>/logs/score_source-{dataset}-{band}.log",
    benchmark:
        "<results>/benchmarks/score_source-{dataset}-{band}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        bands=lambda wildcards: plan.sources.test_set_bands(
            wildcards.dataset, itself=wildcards.band
        ),
        itself=lambda wildcards: plan.sources.test_set_folder(
            wildcards.dataset, wildcards.band
        ),
        extra=plan.own.extra_options(),
        code=digest("fusion.evaluate"),
    shell:
        "python -m fusion.evaluate --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q} {params.bands:q} {params.extra:q}"
        " --fused {params.itself:q} --workers {threads} --output {output:q} 2>&1 | tee {log:q}"


rule measure_cost:
    input:
        weights=lambda wildcards: plan.methods.weights(wildcards.entry),
        own=lambda wildcards: plan.own.files(wildcards.entry),
    output:
        "<results>/cost/{entry}.json",
    log:
        "<results>/logs/measure_cost-{entry}.log",
    threads: config["threads"]
    resources:
        **plan.machine.gpu(lambda wildcards: plan.methods.on_device(wildcards.entry)),
        mem_mb=memory(8000),
        runtime=60,
    params:
        method=lambda wildcards: plan.methods.run_as(wildcards.entry),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: plan.own.options(wildcards.entry)
        + options({**config["cost"], "precision": config["fusion"]["precision"]}),
        device=config["device"],
        code=lambda wildcards: digest(
            "fusion.cost", plan.methods.module(wildcards.entry)
        ),
        revision=lambda wildcards: plan.methods.revision(wildcards.entry),
    shell:
        "python -m fusion.cost --method {params.method} {params.weights:q} {params.options:q}"
        " --device {params.device} --threads {threads} --json {output:q} 2>&1 | tee {log:q}"


rule build_test_set_table:
    input:
        config="<results>/config.json",
        scores=lambda wildcards: plan.targets.scores(wildcards.table),
        manifests=lambda wildcards: plan.targets.manifests(wildcards.table),
        costs=lambda wildcards: plan.targets.costs(wildcards.table),
        scenes=list(plan.sources.test_set_scenes().values()),
    output:
        csv=report(
            "<results>/tables/{table}.csv",
            caption="../report/test_sets.rst",
            category="Tables",
        ),
        others=multiext("<results>/tables/{table}", ".md", ".tex", ".html"),
    log:
        "<results>/logs/build_test_set_table-{table}.log",
    wildcard_constraints:
        table="table1|table1_equal|table3",
    localrule: True
    params:
        datasets=plan.targets.test_sets,
        columns=lambda wildcards: plan.targets.columns(wildcards.table),
        costs=lambda wildcards, input: options({"costs": list(input.costs)}),
        scenes=options(
            {
                "scenes": [
                    f"{name}={file}"
                    for name, file in plan.sources.test_set_scenes().items()
                ]
            }
        ),
        extra=plan.own.extra_options(),
        code=digest("reports.test_sets"),
    shell:
        "python -m reports.test_sets --table {wildcards.table} --datasets {params.datasets:q} --columns {params.columns:q}"
        " --scores {input.scores:q} --manifests {input.manifests:q} {params.costs:q} {params.scenes:q} {params.extra:q} --config-snapshot {input.config:q}"
        ' --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'
