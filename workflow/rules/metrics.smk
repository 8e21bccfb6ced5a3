"""The fusion metrics of every method, per image."""


rule score_fusion:
    input:
        manifest="<results>/fused/{method}/manifest.csv",
        names="<results>/data/split/test.txt",
        pairs=plan.sources.pairs("visible", "infrared"),
        own=plan.own.metric_files(),
    output:
        "<results>/metrics/{method}.csv",
    log:
        "<results>/logs/score_fusion-{method}.log",
    benchmark:
        "<results>/benchmarks/score_fusion-{method}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=memory(2000),
        runtime=240,
    params:
        visible=plan.sources.folders("visible"),
        infrared=plan.sources.folders("infrared"),
        bands=band_options(config["dataset"]),
        own=plan.own.metric_options(),
        code=digest("fusion.evaluate"),
    shell:
        "python -m fusion.evaluate --visible {params.visible:q} --infrared {params.infrared:q}"
        ' --fused "$(dirname {input.manifest:q})" --names {input.names:q} {params.bands:q} {params.own:q} --workers {threads}'
        " --output {output:q} 2>&1 | tee {log:q}"
