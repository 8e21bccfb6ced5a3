"""The detector: trained and tested on every variant with one recipe."""


rule describe_variant:
    input:
        train="<results>/data/split/truth_train.json",
        test="<results>/data/split/truth_test.json",
        images=lambda wildcards: plan.sources.variant_files(wildcards.variant),
    output:
        "<results>/detection/{variant}/data.yaml",
    log:
        "<results>/logs/describe_variant-{variant}.log",
    localrule: True
    threads: 1
    params:
        folders=lambda wildcards: plan.sources.variant_folders(wildcards.variant),
        manifest=lambda wildcards: plan.sources.variant_manifest(wildcards.variant),
        infrared=lambda wildcards: plan.sources.variant_infrared(wildcards.variant),
        code=digest("detection.variant", within="detection"),
    shell:
        'python -m detection.variant --variant {wildcards.variant} --prepared "$(dirname {input.train:q})"'
        " --images {params.folders:q} {params.manifest:q} {params.infrared:q} --output {output:q} 2>&1 | tee {log:q}"


rule estimate_cost:
    input:
        # Detectors that fuse inside the network have other networks; each is timed separately.
        data=[
            f"<results>/detection/{variant}/data.yaml"
            for variant in ["visible", *plan.targets.inside]
        ],
        truth="<results>/data/split/truth_train.json",
        images=plan.sources.pairs(
            "visible", *(["infrared"] if plan.targets.inside else [])
        ),
        architecture=plan.sources.architecture(),
    output:
        "<results>/detection/cost.json",
    log:
        "<results>/logs/estimate_cost.log",
    priority: 100  # so that the estimate is available before most of the plan runs
    threads: plan.machine.threads_alone
    resources:
        **plan.machine.gpu(),
        torch_threads=plan.machine.detector_threads,
        indifferent=neutral_options(config["detection"]["training"]),
        at_once=plan.machine.trainings_at_once,
        mem_mb=memory(12000),
        runtime=60,
    params:
        options=result_options(config["detection"]["training"]),
        variants=plan.targets.variants,
        seeds=plan.targets.seeds,
        model=config["detection"]["model"],
        image_size=config["detection"]["image_size"],
        device=config["device"],
        code=digest("detection.cost"),
    shell:
        "python -m detection.cost --data {input.data:q} --variants {params.variants:q} --seeds {params.seeds}"
        " --model {params.model:q} --image-size {params.image_size} {params.options:q} {resources.indifferent}"
        " --device {params.device} --threads {resources.torch_threads} --at-once {resources.at_once}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule train_detector:
    input:
        data="<results>/detection/{variant}/data.yaml",
        truth="<results>/data/split/truth_train.json",
        images=lambda wildcards: plan.sources.variant_files(wildcards.variant),
        start=plan.sources.start_weights(),
        architecture=plan.sources.architecture(),
    output:
        weights="<results>/detection/{variant}/seed{seed}/weights.pt",
        losses="<results>/detection/{variant}/seed{seed}/results.csv",
        provenance="<results>/detection/{variant}/seed{seed}/provenance.json",
    log:
        "<results>/logs/train_detector-{variant}-seed{seed}.log",
    benchmark:
        "<results>/benchmarks/train_detector-{variant}-seed{seed}.tsv"
    group:
        plan.machine.detector_group
    threads: plan.machine.detector_slots
    resources:
        **plan.machine.gpu(shared=True),
        torch_threads=plan.machine.detector_threads,
        per_gpu=f"--per-gpu {plan.machine.per_gpu}",
        indifferent=neutral_options(config["detection"]["training"]),
        mem_mb=memory(12000),
        runtime=1440,
    params:
        options=result_options(config["detection"]["training"]),
        start=plan.sources.start_options(),
        model=config["detection"]["model"],
        image_size=config["detection"]["image_size"],
        device=config["device"],
        revision=revision("detection.train"),
    shell:
        "python -m detection.train --data {input.data:q} --model {params.model:q} --image-size {params.image_size}"
        " {params.start:q} {params.options:q} {resources.indifferent} --seed {wildcards.seed} --device {params.device} --threads {resources.torch_threads} --resume"
        ' {resources.per_gpu} --tried "$(dirname {output.weights:q})/../../per_gpu.json"'
        ' --output "$(dirname {output.weights:q})" 2>&1 | tee {log:q}'


rule test_detector:
    input:
        data="<results>/detection/{variant}/data.yaml",
        weights="<results>/detection/{variant}/seed{seed}/weights.pt",
        truth="<results>/data/split/truth_test.json",
        conditions="<results>/data/split/conditions.json",
        images=lambda wildcards: plan.sources.variant_files(wildcards.variant),
    output:
        predictions="<results>/detection/{variant}/seed{seed}/predictions.json",
        ap="<results>/detection/{variant}/seed{seed}/ap.json",
    log:
        "<results>/logs/test_detector-{variant}-seed{seed}.log",
    benchmark:
        "<results>/benchmarks/test_detector-{variant}-seed{seed}.tsv"
    group:
        plan.machine.detector_group
    threads: plan.machine.detector_slots
    resources:
        **plan.machine.gpu(shared=True),
        torch_threads=plan.machine.detector_threads,
        per_gpu=f"--per-gpu {plan.machine.per_gpu}",
        # Used only by the training, but all jobs of a group must have the same text resources.
        indifferent=neutral_options(config["detection"]["training"]),
        mem_mb=memory(8000),
        runtime=60,
    params:
        options=options(config["detection"]["testing"]),
        image_size=config["detection"]["image_size"],
        device=config["device"],
        code=digest("detection.test"),
    shell:
        "python -m detection.test --data {input.data:q} --weights {input.weights:q} --image-size {params.image_size}"
        " {params.options:q} --conditions {input.conditions:q} --device {params.device} --threads {resources.torch_threads}"
        ' {resources.per_gpu} --tried "$(dirname {output.ap:q})/../../per_gpu.json"'
        ' --output "$(dirname {output.ap:q})" 2>&1 | tee {log:q}'


rule pool_boxes:
    input:
        truth="<results>/data/split/truth_test.json",
        conditions="<results>/data/split/conditions.json",
        visible="<results>/detection/visible/seed{seed}/ap.json",
        infrared="<results>/detection/infrared/seed{seed}/ap.json",
    output:
        predictions="<results>/detection/late/seed{seed}/predictions.json",
        ap="<results>/detection/late/seed{seed}/ap.json",
    log:
        "<results>/logs/pool_boxes-seed{seed}.log",
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        code=digest("detection.late"),
    shell:
        'python -m detection.late --truth {input.truth:q} --visible "$(dirname {input.visible:q})"'
        ' --infrared "$(dirname {input.infrared:q})" --conditions {input.conditions:q}'
        ' --output "$(dirname {output.ap:q})" 2>&1 | tee {log:q}'


rule test_differences:
    input:
        truth="<results>/data/split/truth_test.json",
        scenes="<results>/data/split/scenes.csv",
        dataset="<results>/data/split/dataset.json",  # for the unit of the split
        conditions="<results>/data/split/conditions.json",
        predictions=plan.targets.of_rows("predictions.json"),
    output:
        "<results>/tables/significance.json",
    log:
        "<results>/logs/test_differences.log",
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        runs=lambda wildcards, input: named(plan.targets.runs(), input.predictions),
        options=chosen(config["detection"]["testing"], "most_detections"),
        brought=options({"brought": list(plan.targets.external)}),
        code=digest("detection.significance"),
    shell:
        "python -m detection.significance --truth {input.truth:q} --scenes {input.scenes:q}"
        " --conditions {input.conditions:q} {params.options:q} {params.brought:q}"
        " --predictions {params.runs:q} --output {output:q} 2>&1 | tee {log:q}"


rule score_by_truths:
    input:
        sets="<results>/data/split/truth_sets.json",
        scenes="<results>/data/split/scenes.csv",
        dataset="<results>/data/split/dataset.json",  # for the unit of the split
        predictions=plan.targets.of_rows("predictions.json"),
    output:
        "<results>/tables/truths.json",
    log:
        "<results>/logs/score_by_truths.log",
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        runs=lambda wildcards, input: named(plan.targets.runs(), input.predictions),
        options=chosen(config["detection"]["testing"], "most_detections"),
        brought=options({"brought": list(plan.targets.external)}),
        code=digest("detection.truths"),
    shell:
        "python -m detection.truths --sets {input.sets:q} --scenes {input.scenes:q} {params.options:q} {params.brought:q}"
        " --predictions {params.runs:q} --output {output:q} 2>&1 | tee {log:q}"


rule sort_errors:
    input:
        truth="<results>/data/split/truth_test.json",
        predictions=plan.targets.of_rows("predictions.json"),
    output:
        errors="<results>/tables/errors.json",
        curves="<results>/tables/pr_curves.csv",
    log:
        "<results>/logs/sort_errors.log",
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        runs=lambda wildcards, input: named(plan.targets.runs(), input.predictions),
        options=chosen(config["detection"]["testing"], "most_detections"),
        brought=options({"brought": list(plan.targets.external)}),
        code=digest("detection.errors"),
    shell:
        "python -m detection.errors --truth {input.truth:q} {params.options:q} {params.brought:q} --predictions {params.runs:q}"
        " --output {output.errors:q} --curves {output.curves:q} 2>&1 | tee {log:q}"


rule list_objects:
    input:
        truth="<results>/data/split/truth_test.json",
        conditions="<results>/data/split/conditions.json",
        predictions=plan.targets.of_first_seed(plan.targets.rows, "predictions.json"),
    output:
        "<results>/tables/helps.json",
    log:
        "<results>/logs/list_objects.log",
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        runs=lambda wildcards, input: named(plan.targets.rows, input.predictions),
        code=digest("detection.objects"),
    shell:
        "python -m detection.objects --truth {input.truth:q} --conditions {input.conditions:q}"
        " --predictions {params.runs:q} --output {output:q} 2>&1 | tee {log:q}"
