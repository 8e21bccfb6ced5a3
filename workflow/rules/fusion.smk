"""FNet's training and the fused images."""


rule train_fnet:
    input:
        plan.sources.fnet_pairs(),
        # ancient: the file is compared by content, in params, so that a fresh clone does not retrain.
        start=ancient(plan.methods.start_weights()),
    output:
        weights="<results>/fusion/fnet/weights.safetensors",
        raw="<results>/fusion/fnet/weights_raw.safetensors",
        ifnet="<results>/fusion/fnet/ifnet.safetensors",
        losses="<results>/fusion/fnet/losses.csv",
        provenance="<results>/fusion/fnet/provenance.json",
    log:
        "<results>/logs/train_fnet.log",
    benchmark:
        "<results>/benchmarks/train_fnet.tsv"
    threads: config["threads"]
    resources:
        **plan.machine.gpu(),
        indifferent=neutral_options(config["fnet"]["training"]),
        mem_mb=memory(8000),
        runtime=720,
    params:
        method="fnet",
        visible=plan.sources.fnet_folders("visible"),
        infrared=plan.sources.fnet_folders("infrared"),
        names=plan.sources.fnet_names() + plan.sources.fnet_bands(),
        options=result_options(config["fnet"]["training"]),
        start=options({"start": plan.methods.start_weights()}),
        start_digest=plan.methods.start_digest(),
        device=config["device"],
        revision=[revision("fusion.train"), plan.methods.training_revision("fnet")],
    shell:
        "python -m fusion.train --method {params.method} --visible {params.visible:q} --infrared {params.infrared:q}"
        " {params.names:q} {params.start:q} {params.options:q} {resources.indifferent} --device {params.device} --threads {threads} --resume"
        ' --output "$(dirname {output.weights:q})" 2>&1 | tee {log:q}'


# The other methods that this run trains, on FNet's pairs.
use rule train_fnet as train_method with:
    input:
        plan.sources.fnet_pairs(),
        frozen=lambda wildcards: plan.methods.frozen_weights(wildcards.method),
    output:
        weights="<results>/fusion/{method}/weights.safetensors",
        losses="<results>/fusion/{method}/losses.csv",
        provenance="<results>/fusion/{method}/provenance.json",
    log:
        "<results>/logs/train_method-{method}.log",
    benchmark:
        "<results>/benchmarks/train_method-{method}.tsv"
    resources:
        **plan.machine.gpu(),
        indifferent=lambda wildcards: neutral_options(
            plan.methods.options(wildcards.method)
        ),
        mem_mb=memory(16000),
        runtime=1440,
    params:
        method=lambda wildcards: wildcards.method,
        visible=plan.sources.fnet_folders("visible"),
        infrared=plan.sources.fnet_folders("infrared"),
        names=plan.sources.fnet_names() + plan.sources.fnet_bands(),
        start=[],
        options=lambda wildcards: result_options(plan.methods.options(wildcards.method)),
        device=config["device"],
        revision=lambda wildcards: [
            revision("fusion.train"),
            plan.methods.training_revision(wildcards.method),
        ],


# FNet without one of its parts, or with another value. It starts from random weights, because the weights of the
# complete FNet were trained with that part.
use rule train_fnet as train_ablation with:
    input:
        plan.sources.fnet_pairs(),
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
        visible=plan.sources.fnet_folders("visible"),
        infrared=plan.sources.fnet_folders("infrared"),
        names=plan.sources.fnet_names() + plan.sources.fnet_bands(),
        start=[],
        options=lambda wildcards: result_options(
            {**config["fnet"]["training"], **config["ablations"][wildcards.ablation]}
        ),
        device=config["device"],
        revision=[revision("fusion.train"), plan.methods.training_revision("fnet")],


rule fuse_pairs:
    input:
        weights=lambda wildcards: plan.methods.weights(wildcards.method),
        own=lambda wildcards: plan.own.files(wildcards.method),
        names=["<results>/data/split/train.txt", "<results>/data/split/test.txt"],
        pairs=plan.sources.pairs("visible", "infrared"),
    output:
        "<results>/fused/{method}/manifest.csv",
    log:
        "<results>/logs/fuse_pairs-{method}.log",
    benchmark:
        "<results>/benchmarks/fuse_pairs-{method}.tsv"
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
        " --visible {params.visible:q} --infrared {params.infrared:q} --names {input.names:q}"
        ' --device {params.device} --threads {threads} --output "$(dirname {output:q})" 2>&1 | tee {log:q}'
