"""Pairs, boxes and the split."""

if SYNTHETIC:

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
            mem_mb=1000,
            runtime=30,
        params:
            folder=lambda wildcards: dataset_root(),
            options=options(config["synthetic"]),
            revision=revision("fusion/synthetic/__init__.py"),
        shell:
            "python -m fusion.synthetic --output {params.folder:q} {params.options:q} 2>&1 | tee {log:q}"


rule prepare_split:
    input:
        sources("visible", "infrared", "labels"),
        split_lists(),
    output:
        train="<results>/data/split/train.txt",
        test="<results>/data/split/test.txt",
        truth_train="<results>/data/split/truth_train.json",
        truth_test="<results>/data/split/truth_test.json",
        dataset="<results>/data/split/dataset.json",
    log:
        "<results>/logs/prepare_split.log",
    benchmark:
        "<results>/benchmarks/prepare_split.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        root=lambda wildcards: dataset_root(),
        options=options(
            {
                "dataset": DATASET["name"],
                **{
                    key: DATASET[key] for key in DATASET if key not in ("name", "root")
                },
            }
        ),
        code=digest(
            "detection/datasets",
            *(
                f"detection/{name}.py"
                for name in ("boxes", "prepare", "splits", "truth")
            ),
        ),
    shell:
        "python -m detection.prepare --root {params.root:q} {params.options:q}"
        ' --output "$(dirname {output.dataset:q})" 2>&1 | tee {log:q}'
