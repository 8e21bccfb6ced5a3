"""Tables I and III: methods, and FNet's ablations, on sets of pairs without boxes."""


use rule train_fnet as train_ablation with:
    output:
        weights="<results>/ablations/{ablation}/weights.safetensors",
        losses="<results>/ablations/{ablation}/losses.csv",
        provenance="<results>/ablations/{ablation}/provenance.json",
    log:
        "<results>/logs/train_ablation-{ablation}.log",
    benchmark:
        "<results>/benchmarks/train_ablation-{ablation}.tsv"
    params:
        method="fnet",
        visible=fnet_folders("visible"),
        infrared=fnet_folders("infrared"),
        names=fnet_names(),
        options=lambda wildcards: options(
            deciding({**config["fnet"]["training"], **ABLATIONS[wildcards.ablation]})
        ),
        device=config["device"],
        revision=revision("fusion/train.py"),


rule fuse_test_set:
    input:
        weights=entry_weights,
        own=lambda wildcards: own_sources(wildcards.entry, wildcards.dataset),
        pairs=test_set_sources,
    output:
        "<results>/test_sets/{treatment}/{dataset}/{entry}/manifest.csv",
    log:
        "<results>/logs/fuse_test_set-{treatment}-{dataset}-{entry}.log",
    benchmark:
        "<results>/benchmarks/fuse_test_set-{treatment}-{dataset}-{entry}.tsv"
    threads: config["threads"]
    resources:
        **gpu_request(lambda wildcards: on_device(entry_method(wildcards.entry))),
        mem_mb=4000,
        runtime=240,
    params:
        method=lambda wildcards: entry_method(wildcards.entry),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: own_options(wildcards.entry, wildcards.dataset)
        + treatment_options(wildcards),
        device=config["device"],
        revision=lambda wildcards: [
            METHODS[entry_method(wildcards.entry)].revision,
            revision("fusion/fuse.py"),
        ],
    shell:
        "python -m fusion.fuse --method {params.method} {params.weights:q} {params.options:q}"
        " --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q}"
        ' --device {params.device} --threads {threads} --output "$(dirname {output:q})" 2>&1 | tee {log:q}'


rule score_test_set:
    input:
        manifest="<results>/test_sets/{treatment}/{dataset}/{entry}/manifest.csv",
        pairs=test_set_sources,
    output:
        "<results>/test_sets/{treatment}/{dataset}/{entry}.csv",
    log:
        "<results>/logs/score_test_set-{treatment}-{dataset}-{entry}.log",
    benchmark:
        "<results>/benchmarks/score_test_set-{treatment}-{dataset}-{entry}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=digest("fusion/metrics"),
    shell:
        "python -m fusion.evaluate --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q}"
        ' --fused "$(dirname {input.manifest:q})" --workers {threads} --output {output:q} 2>&1 | tee {log:q}'


rule score_source:
    input:
        pairs=test_set_sources,
    output:
        "<results>/test_sets/sources/{dataset}/{band}.csv",
    log:
        "<results>/logs/score_source-{dataset}-{band}.log",
    benchmark:
        "<results>/benchmarks/score_source-{dataset}-{band}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        itself=lambda wildcards: test_set_folder(wildcards.dataset, wildcards.band),
        code=digest("fusion/metrics"),
    shell:
        "python -m fusion.evaluate --visible {input.pairs[0]:q} --infrared {input.pairs[1]:q}"
        " --fused {params.itself:q} --workers {threads} --output {output:q} 2>&1 | tee {log:q}"


rule measure_cost:
    input:
        weights=entry_weights,
        own=lambda wildcards: own_sources(wildcards.entry),
    output:
        "<results>/cost/{entry}.json",
    log:
        "<results>/logs/measure_cost-{entry}.log",
    threads: config["threads"]
    resources:
        **gpu_request(lambda wildcards: on_device(entry_method(wildcards.entry))),
        mem_mb=8000,
        runtime=60,
    params:
        method=lambda wildcards: entry_method(wildcards.entry),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: own_options(wildcards.entry)
        + options({**config["cost"], "precision": config["fusion"]["precision"]}),
        device=config["device"],
        code=digest("fusion/cost.py"),
        revision=lambda wildcards: METHODS[entry_method(wildcards.entry)].revision,
    shell:
        "python -m fusion.cost --method {params.method} {params.weights:q} {params.options:q}"
        " --device {params.device} --threads {threads} --json {output:q} 2>&1 | tee {log:q}"


rule build_test_set_table:
    input:
        config="<results>/config.json",
        scores=table_scores,
        manifests=table_manifests,
        costs=table_costs,
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
        datasets=list(TEST_SETS),
        columns=lambda wildcards: table_columns(wildcards.table),
        costs=lambda wildcards, input: options({"costs": list(input.costs)}),
        code=digest("reports", "fusion/metrics/statistics.py"),
    shell:
        "python -m reports.test_sets --table {wildcards.table} --datasets {params.datasets:q} --columns {params.columns:q}"
        " --scores {input.scores:q} --manifests {input.manifests:q} {params.costs:q} --config-snapshot {input.config:q}"
        ' --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'
