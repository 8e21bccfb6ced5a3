"""Test pairs with one band corrupted: fused again by each method, and tested by the detectors without retraining.

Only the tests need the corrupted images, which take much disk space; they are removed when the tests have ended.
"""


rule worsen_pairs:
    input:
        names="<results>/data/split/test.txt",
        pairs=plan.sources.pairs("visible", "infrared"),
    output:
        temp(directory("<results>/robustness/{kind}/pairs")),
    log:
        "<results>/logs/worsen_pairs-{kind}.log",
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        levels=lambda wildcards: plan.targets.corruptions[wildcards.kind],
        visible=plan.sources.folders("visible"),
        infrared=plan.sources.folders("infrared"),
        bands=band_options(config["dataset"]),
        revision=revision("pipeline.corruptions"),
    shell:
        "python -m pipeline.corruptions --kind {wildcards.kind} --levels {params.levels} --visible {params.visible:q}"
        " --infrared {params.infrared:q} {params.bands:q} --names {input.names:q} --output {output:q} 2>&1 | tee {log:q}"


# With the same weights and options as the pairs of Table II.
rule fuse_worse_pairs:
    input:
        weights=lambda wildcards: plan.methods.weights(wildcards.method),
        own=lambda wildcards: plan.own.files(wildcards.method),
        names=["<results>/data/split/train.txt", "<results>/data/split/test.txt"],
        pairs=plan.sources.pairs("visible", "infrared"),
        worse="<results>/robustness/{kind}/pairs",
    output:
        temp(directory("<results>/robustness/{kind}/fused/{method}")),
    log:
        "<results>/logs/fuse_worse_pairs-{kind}-{method}.log",
    benchmark:
        "<results>/benchmarks/fuse_worse_pairs-{kind}-{method}.tsv"
    threads: config["threads"]
    resources:
        **plan.machine.gpu(lambda wildcards: plan.methods.on_device(wildcards.method)),
        mem_mb=memory(4000),
        runtime=240,
    params:
        visible=plan.sources.folders("visible"),
        infrared=plan.sources.folders("infrared"),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: plan.own.options(wildcards.method)
        + plan.own.watch(wildcards.method)
        + chosen(config["fusion"], "colour", "precision")
        + band_options(config["dataset"]),
        device=config["device"],
        revision=lambda wildcards: [
            plan.methods.revision(wildcards.method),
            revision("fusion.fuse"),
        ],
    shell:
        "python -m fusion.fuse --method {wildcards.method} {params.weights:q} {params.options:q}"
        " --visible {params.visible:q} --infrared {params.infrared:q} --names {input.names:q} --worse {input.worse:q}"
        " --device {params.device} --threads {threads} --output {output:q} 2>&1 | tee {log:q}"


rule test_worse:
    input:
        data="<results>/detection/{variant}/data.yaml",
        weights=expand(
            "<results>/detection/{{variant}}/seed{seed}/weights.pt",
            seed=plan.targets.seeds,
        ),
        truth="<results>/data/split/truth_test.json",
        images=lambda wildcards: plan.sources.variant_files(wildcards.variant),
        worse="<results>/robustness/{kind}/pairs",
        fused=lambda wildcards: (
            [f"<results>/robustness/{wildcards.kind}/fused/{wildcards.variant}"]
            if wildcards.variant in plan.methods.names
            else []
        ),
    output:
        "<results>/robustness/{kind}/{variant}/tested.json",
    log:
        "<results>/logs/test_worse-{kind}-{variant}.log",
    benchmark:
        "<results>/benchmarks/test_worse-{kind}-{variant}.tsv"
    threads: plan.machine.detector_slots
    resources:
        **plan.machine.gpu(),
        torch_threads=plan.machine.detector_threads,
        mem_mb=memory(8000),
        runtime=240,
    params:
        fused=lambda wildcards, input: options({"fused": list(input.fused)}),
        options=options(config["detection"]["testing"]),
        image_size=config["detection"]["image_size"],
        device=config["device"],
        code=digest("detection.robustness"),
    shell:
        "python -m detection.robustness --data {input.data:q} --weights {input.weights:q} --worse {input.worse:q}"
        " {params.fused:q} --image-size {params.image_size} {params.options:q} --device {params.device}"
        ' --threads {resources.torch_threads} --output "$(dirname {output:q})" 2>&1 | tee {log:q}'


rule measure_losses:
    input:
        truth="<results>/data/split/truth_test.json",
        scenes="<results>/data/split/scenes.csv",
        dataset="<results>/data/split/dataset.json",  # for the unit of the split
        predictions=plan.targets.of_corrupted_rows("predictions.json"),
        ap=plan.targets.of_corrupted_rows("ap.json"),  # they record how the detectors were tested
        tested=lambda wildcards: [
            f"<results>/robustness/{wildcards.kind}/{variant}/tested.json"
            for variant in plan.targets.seeing(wildcards.kind)
        ],
    output:
        "<results>/robustness/{kind}/losses.json",
    log:
        "<results>/logs/measure_losses-{kind}.log",
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=120,
    params:
        runs=lambda wildcards, input: named(
            [
                f"{row}/{seed}"
                for row in plan.targets.corrupted_rows
                for seed in plan.targets.seeds
            ],
            input.predictions,
        ),
        tested=lambda wildcards, input: [Path(file).parent for file in input.tested],
        options=chosen(config["detection"]["testing"], "most_detections"),
        code=digest("detection.losses"),
    shell:
        "python -m detection.losses --truth {input.truth:q} --scenes {input.scenes:q} {params.options:q}"
        " --predictions {params.runs:q} --tested {params.tested:q} --output {output:q} 2>&1 | tee {log:q}"


rule build_robustness_table:
    input:
        split="<results>/data/split/dataset.json",
        ap=plan.targets.of_rows("ap.json"),
        losses=plan.targets.losses(),
    output:
        csv=report(
            "<results>/tables/robustness.csv",
            caption="../report/robustness.rst",
            category="Tables",
        ),
        texts=multiext("<results>/tables/robustness", ".md", ".tex"),
    log:
        "<results>/logs/build_robustness_table.log",
    localrule: True
    params:
        variants=plan.targets.rows,
        code=digest("reports.robustness"),
    shell:
        'python -m reports.robustness --split "$(dirname {input.split:q})" --ap {input.ap:q} --losses {input.losses:q}'
        ' --variants {params.variants:q} --output "$(dirname {output.csv:q})" 2>&1 | tee {log:q}'
