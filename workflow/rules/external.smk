"""Detectors trained elsewhere: their results as rows of Table II, or tested without retraining in a separate table."""


rule score_brought:
    input:
        results=lambda wildcards: plan.targets.external[wildcards.brought][
            int(wildcards.number)
        ],
        truth="<results>/data/split/truth_test.json",
        conditions="<results>/data/split/conditions.json",
    output:
        predictions="<results>/detection/{brought}/run{number}/predictions.json",
        ap="<results>/detection/{brought}/run{number}/ap.json",
    log:
        "<results>/logs/score_brought-{brought}-run{number}.log",
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=30,
    params:
        content=lambda wildcards, input: content_digest(input.results),
        options=chosen(
            config["detection"]["testing"], "most_detections", "max_detections"
        ),
        code=digest("detection.external"),
    shell:
        "python -m detection.external --variant {wildcards.brought} --run {wildcards.number} --results {input.results:q}"
        " --truth {input.truth:q} --conditions {input.conditions:q} {params.options:q}"
        ' --output "$(dirname {output.ap:q})" 2>&1 | tee {log:q}'


rule test_as_is:
    input:
        weights=lambda wildcards: plan.targets.as_is[wildcards.detector]["weights"],
        data="<results>/detection/{variant}/data.yaml",
        truth="<results>/data/split/truth_test.json",
        conditions="<results>/data/split/conditions.json",
        images=lambda wildcards: plan.sources.variant_files(wildcards.variant),
    output:
        predictions="<results>/as_is/{detector}/{variant}/predictions.json",
        ap="<results>/as_is/{detector}/{variant}/ap.json",
    log:
        "<results>/logs/test_as_is-{detector}-{variant}.log",
    threads: plan.machine.detector_slots
    resources:
        **plan.machine.gpu(),
        torch_threads=plan.machine.detector_threads,
        mem_mb=memory(8000),
        runtime=60,
    params:
        content=lambda wildcards, input: content_digest(input.weights),
        # Words of the form "theirs=ours": the detector's class and the dataset's.
        classes=lambda wildcards: named(
            plan.targets.as_is[wildcards.detector]["classes"],
            plan.targets.as_is[wildcards.detector]["classes"].values(),
        ),
        image_size=lambda wildcards: options(
            {"image_size": plan.targets.as_is[wildcards.detector].get("image_size")}
        ),
        options=options(config["detection"]["testing"]),
        trust=chosen(config["detection"], "trust_weights"),
        device=config["device"],
        code=digest("detection.test"),
    shell:
        "python -m detection.test --as-is --weights {input.weights:q} --classes {params.classes:q} {params.trust:q}"
        " --data {input.data:q} {params.image_size:q} {params.options:q} --conditions {input.conditions:q}"
        " --device {params.device} --threads {resources.torch_threads}"
        ' --output "$(dirname {output.ap:q})" 2>&1 | tee {log:q}'


rule test_as_is_differences:
    input:
        truth="<results>/data/split/truth_test.json",
        scenes="<results>/data/split/scenes.csv",
        dataset="<results>/data/split/dataset.json",  # for the unit of the split
        predictions=expand(
            "<results>/as_is/{{detector}}/{variant}/predictions.json",
            variant=plan.targets.with_images,
        ),
    output:
        "<results>/as_is/{detector}/significance.json",
    log:
        "<results>/logs/test_as_is_differences-{detector}.log",
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        runs=lambda wildcards, input: named(
            [f"{variant}/0" for variant in plan.targets.with_images], input.predictions
        ),
        known=lambda wildcards: sorted(
            set(plan.targets.as_is[wildcards.detector]["classes"].values())
        ),
        options=chosen(config["detection"]["testing"], "most_detections"),
        code=digest("detection.significance"),
    shell:
        "python -m detection.significance --truth {input.truth:q} --scenes {input.scenes:q} {params.options:q}"
        " --classes {params.known:q} --predictions {params.runs:q} --output {output:q} 2>&1 | tee {log:q}"


rule build_as_is_table:
    input:
        split="<results>/data/split/dataset.json",
        ap=[f"<results>/as_is/{run}/ap.json" for run in plan.targets.as_is_runs()],
        significance=expand(
            "<results>/as_is/{detector}/significance.json", detector=plan.targets.as_is
        ),
    output:
        csv=report(
            "<results>/tables/table2_as_is.csv",
            caption="../report/table2_as_is.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/table2_as_is", ".md", ".tex"),
    log:
        "<results>/logs/build_as_is_table.log",
    localrule: True
    params:
        runs=lambda wildcards, input: named(plan.targets.as_is_runs(), input.ap),
        significance=lambda wildcards, input: named(
            plan.targets.as_is, input.significance
        ),
        code=digest("reports.as_is"),
    shell:
        'python -m reports.as_is --split "$(dirname {input.split:q})" --ap {params.runs:q}'
        ' --significance {params.significance:q} --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'
