"""Pairs, boxes and the split."""

if config["dataset"]["name"] == "synthetic":

    rule generate_pairs:
        output:
            "<results>/data/pairs/train.txt",
            "<results>/data/pairs/test.txt",
        log:
            "<results>/logs/generate_pairs.log",
        benchmark:
            "<results>/benchmarks/generate_pairs.tsv"
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=30,
        params:
            folder=lambda wildcards: plan.sources.root,
            options=options(config["synthetic"]),
            revision=revision("fusion.synthetic"),
        shell:
            "python -m fusion.synthetic --output {params.folder:q} {params.options:q} 2>&1 | tee {log:q}"


rule audit_dataset:
    input:
        plan.sources.pairs("visible", "infrared", "labels"),
        plan.sources.split_lists(),
    output:
        "<results>/data/audit.json",
    log:
        "<results>/logs/audit_dataset.log",
    benchmark:
        "<results>/benchmarks/audit_dataset.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        root=lambda wildcards: plan.sources.root,
        labels=lambda wildcards: plan.sources.labels_digest(),
        options=dataset_options(
            config,
            "classes",
            "visible",
            "infrared",
            "labels",
            "leave_out",
            "truth",
            "unlabelled",
            "split",
            "train_list",
            "test_list",
        ),
        code=digest("detection.audit"),
    shell:
        "python -m detection.audit --root {params.root:q} {params.options:q} --output {output:q} 2>&1 | tee {log:q}"


rule prepare_split:
    input:
        # ancient: repeating the audit on the same data must not prepare the split again.
        ancient("<results>/data/audit.json"),
        plan.sources.pairs("visible", "infrared", "labels"),
        plan.sources.split_lists(),
    output:
        train="<results>/data/split/train.txt",
        test="<results>/data/split/test.txt",
        truth_train="<results>/data/split/truth_train.json",
        truth_test="<results>/data/split/truth_test.json",
        truth_sets="<results>/data/split/truth_sets.json",
        leakage="<results>/data/split/leakage.json",
        conditions="<results>/data/split/conditions.json",
        scenes="<results>/data/split/scenes.csv",
        dataset="<results>/data/split/dataset.json",
    log:
        "<results>/logs/prepare_split.log",
    benchmark:
        "<results>/benchmarks/prepare_split.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        root=lambda wildcards: plan.sources.root,
        labels=lambda wildcards: plan.sources.labels_digest(),
        options=dataset_options(
            config, *(key for key in config["dataset"] if key not in ("name", "root"))
        ),
        code=digest("detection.prepare", within="detection"),
    shell:
        "python -m detection.prepare --root {params.root:q} {params.options:q}"
        ' --output "$(dirname {output.dataset:q})" 2>&1 | tee {log:q}'
