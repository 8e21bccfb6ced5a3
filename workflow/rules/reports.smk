"""The tables and the page."""


rule save_config:
    output:
        "<results>/config.json",
    log:
        "<results>/logs/save_config.log",
    localrule: True
    params:
        # A function, because placeholders in an own method's command, such as {visible}, are not wildcards.
        config=lambda wildcards: json.dumps(
            config, indent=2, sort_keys=True, ensure_ascii=False
        ),
    shell:
        "printf '%s\n' {params.config:q} > {output:q}.part 2> {log:q} && mv {output:q}.part {output:q}"


rule build_table2:
    input:
        config="<results>/config.json",
        audit="<results>/data/audit.json",
        split="<results>/data/split/dataset.json",
        ap=plan.targets.of_rows("ap.json"),
        training=plan.targets.of_variants("provenance.json"),
        cost="<results>/detection/cost.json",
        significance="<results>/tables/significance.json",
        manifests=plan.targets.of_methods("fused/{method}/manifest.csv"),
        truths=plan.truths("tables/truths.json"),
    output:
        csv=report(
            "<results>/tables/table2.csv",
            caption="../report/table2.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/table2", ".md", ".tex"),
        truths=plan.truths(
            "tables/table2_truth.csv",
            "tables/table2_truth.md",
            "tables/table2_truth.tex",
        ),
        conditions=report(
            "<results>/tables/table2_conditions.csv",
            caption="../report/table2_conditions.rst",
            category="Tables",
        ),
        conditions_texts=multiext("<results>/tables/table2_conditions", ".md", ".tex"),
        detail="<results>/tables/table2_detail.csv",
    log:
        "<results>/logs/build_table2.log",
    localrule: True
    params:
        variants=plan.targets.rows,
        truths=lambda wildcards, input: options({"truths": list(input.truths)}),
        code=digest("reports.tables"),
    shell:
        'python -m reports.tables --split "$(dirname {input.split:q})" --ap {input.ap:q} --training {input.training:q}'
        " --fused-manifests {input.manifests:q} --variants {params.variants:q} --significance {input.significance:q}"
        " --cost {input.cost:q} {params.truths:q}"
        ' --config-snapshot {input.config:q} --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'


rule build_error_table:
    input:
        split="<results>/data/split/dataset.json",
        ap=plan.targets.of_rows("ap.json"),
        errors="<results>/tables/errors.json",
    output:
        csv=report(
            "<results>/tables/errors.csv",
            caption="../report/errors.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/errors", ".md", ".tex"),
        confusion="<results>/tables/confusion.csv",
    log:
        "<results>/logs/build_error_table.log",
    localrule: True
    params:
        variants=plan.targets.rows,
        code=digest("reports.errors"),
    shell:
        'python -m reports.errors --split "$(dirname {input.split:q})" --ap {input.ap:q} --errors {input.errors:q}'
        ' --variants {params.variants:q} --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'


rule build_cost_table:
    input:
        training=plan.targets.of_variants("provenance.json"),
        costs=plan.targets.of_methods("cost/{method}.json"),
    output:
        csv=report(
            "<results>/tables/cost.csv",
            caption="../report/cost.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/cost", ".md", ".tex"),
    log:
        "<results>/logs/build_cost_table.log",
    localrule: True
    params:
        variants=[row for row in plan.targets.rows if row not in plan.targets.external],  # the cost of external rows is unknown
        code=digest("reports.costs"),
    shell:
        "python -m reports.costs --variants {params.variants:q} --training {input.training:q} --costs {input.costs:q}"
        ' --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'


rule build_fusion_table:
    input:
        config="<results>/config.json",
        split="<results>/data/split/dataset.json",
        scenes="<results>/data/split/scenes.csv",
        metrics=plan.targets.of_methods("metrics/{method}.csv"),
        manifests=plan.targets.of_methods("fused/{method}/manifest.csv"),
    output:
        csv=report(
            "<results>/tables/fusion.csv",
            caption="../report/fusion.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/fusion", ".md", ".tex"),
    log:
        "<results>/logs/build_fusion_table.log",
    localrule: True
    params:
        methods=plan.methods.names,
        code=digest("reports.tables"),
    shell:
        'python -m reports.tables --split "$(dirname {input.split:q})" --metrics {input.metrics:q} --scenes {input.scenes:q}'
        " --fused-manifests {input.manifests:q} --variants {params.methods:q} --config-snapshot {input.config:q}"
        ' --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'


rule explain_fnet:
    input:
        weights=plan.methods.weights("fnet"),
        names="<results>/data/split/test.txt",
        pairs=plan.sources.pairs("visible", "infrared"),
    output:
        facts="<results>/insides/insides.json",
        sheets=multiext(
            "<results>/insides/",
            "features.png",
            "reconstructions.png",
            "iterations.png",
        ),
    log:
        "<results>/logs/explain_fnet.log",
    threads: config["threads"]
    resources:
        **plan.machine.gpu(),
        mem_mb=memory(8000),
        runtime=30,
    params:
        visible=plan.sources.folders("visible"),
        infrared=plan.sources.folders("infrared"),
        bands=band_options(config["dataset"]),
        colour=config["fusion"]["colour"],
        device=config["device"],
        code=digest("fusion.explain"),
    shell:
        "python -m fusion.explain --weights {input.weights:q} --visible {params.visible:q} --infrared {params.infrared:q}"
        " {params.bands:q}"
        " --names {input.names:q} --colour {params.colour} --device {params.device} --threads {threads}"
        ' --output "$(dirname {output.facts:q})" 2>&1 | tee {log:q}'


rule build_report:
    input:
        config="<results>/config.json",
        split="<results>/data/split/dataset.json",
        tables=[
            "<results>/tables/table2.csv",
            "<results>/tables/fusion.csv",
            "<results>/tables/errors.csv",  # its rule also writes confusion.csv for the reader
        ],
        cost_table="<results>/tables/cost.csv",
        errors="<results>/tables/errors.json",
        curves="<results>/tables/pr_curves.csv",
        truth_table=plan.truths("tables/table2_truth.csv"),
        as_is_table=plan.targets.as_is_table(),
        losses_worse=plan.targets.losses(),
        ap=plan.targets.of_rows("ap.json"),
        predictions=plan.targets.of_first_seed(plan.targets.rows, "predictions.json"),
        significance="<results>/tables/significance.json",
        helps="<results>/tables/helps.json",
        losses=plan.fnet_losses(),
        detector_losses=plan.targets.of_first_seed(plan.targets.variants, "results.csv"),
        costs=plan.targets.of_methods("cost/{method}.json"),
        test_set_tables=[
            f"<results>/tables/{name}.csv" for name in plan.targets.test_set_tables()
        ],
        insides=(
            ["<results>/insides/insides.json"] if "fnet" in plan.methods.names else []
        ),
        images=plan.sources.pairs("visible", "infrared"),
    output:
        report(
            "<results>/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        "<results>/logs/build_report.log",
    localrule: True
    params:
        images=[
            f"{variant}={folder}"
            for variant in plan.targets.with_images
            for folder in plan.sources.variant_folders(variant)
        ],
        predictions=lambda wildcards, input: named(plan.targets.rows, input.predictions),
        curves=lambda wildcards, input: options(
            {
                "detector_losses": named(plan.targets.variants, input.detector_losses),
                "costs": named(plan.methods.names, input.costs),
                "test_set_tables": list(input.test_set_tables),
                "truth_table": list(input.truth_table),
                "as_is_table": list(input.as_is_table),
                "robustness": list(input.losses_worse),
                "insides": [Path(file).parent for file in input.insides],
            }
        ),
        losses=lambda wildcards, input: options(
            {"losses": [f"fnet={file}" for file in input.losses]}
        ),
        code=digest("reports.page"),
    shell:
        'python -m reports.page --split "$(dirname {input.split:q})" --tables "$(dirname {input.tables[0]:q})"'
        " --images {params.images:q} --ap {input.ap:q} --predictions {params.predictions:q} {params.losses:q}"
        " {params.curves:q}"
        " --significance {input.significance:q} --helps {input.helps:q} --errors {input.errors:q}"
        " --curves {input.curves:q} --cost-table {input.cost_table:q}"
        " --config-snapshot {input.config:q} --output {output:q} 2>&1 | tee {log:q}"
