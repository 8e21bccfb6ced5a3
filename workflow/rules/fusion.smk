"""FNet's training and the fused images."""


rule train_fnet:
    input:
        fnet_sources,
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
        **gpu_request(),
        indifferent=indifferent(config["fnet"]["training"]),
        mem_mb=8000,
        runtime=720,
    params:
        method="fnet",
        visible=fnet_folders("visible"),
        infrared=fnet_folders("infrared"),
        names=fnet_names(),
        options=options(deciding(config["fnet"]["training"])),
        device=config["device"],
        revision=revision("fusion/train.py"),
    shell:
        "python -m fusion.train --method {params.method} --visible {params.visible:q} --infrared {params.infrared:q}"
        " {params.names:q} {params.options:q} {resources.indifferent} --device {params.device} --threads {threads} --resume"
        ' --output "$(dirname {output.weights:q})" 2>&1 | tee {log:q}'


# The other methods that this run trains, on FNet's pairs.
use rule train_fnet as train_method with:
    input:
        fnet_sources,
        frozen=lambda wildcards: frozen_weights(wildcards.method),
    output:
        weights="<results>/fusion/{method}/weights.safetensors",
        losses="<results>/fusion/{method}/losses.csv",
        provenance="<results>/fusion/{method}/provenance.json",
    log:
        "<results>/logs/train_method-{method}.log",
    benchmark:
        "<results>/benchmarks/train_method-{method}.tsv"
    resources:
        **gpu_request(),
        indifferent=lambda wildcards: indifferent(method_training(wildcards.method)),
        mem_mb=16000,
        runtime=1440,
    params:
        method=lambda wildcards: wildcards.method,
        visible=fnet_folders("visible"),
        infrared=fnet_folders("infrared"),
        names=fnet_names(),
        options=lambda wildcards: options(deciding(method_training(wildcards.method))),
        device=config["device"],
        revision=revision("fusion/train.py"),


rule fuse_pairs:
    input:
        weights=lambda wildcards: method_weights(wildcards.method),
        own=lambda wildcards: own_sources(wildcards.method),
        names=["<results>/data/split/train.txt", "<results>/data/split/test.txt"],
        pairs=sources("visible", "infrared"),
    output:
        "<results>/fused/{method}/manifest.csv",
    log:
        "<results>/logs/fuse_pairs-{method}.log",
    benchmark:
        "<results>/benchmarks/fuse_pairs-{method}.tsv"
    threads: config["threads"]
    resources:
        **gpu_request(lambda wildcards: on_device(wildcards.method)),
        mem_mb=4000,
        runtime=240,
    params:
        visible=folders("visible"),
        infrared=folders("infrared"),
        weights=lambda wildcards, input: options({"weights": list(input.weights)}),
        options=lambda wildcards: own_options(wildcards.method)
        + options({key: config["fusion"][key] for key in ("colour", "precision")}),
        device=config["device"],
        revision=lambda wildcards: [
            METHODS[wildcards.method].revision,
            revision("fusion/fuse.py"),
        ],
    shell:
        "python -m fusion.fuse --method {wildcards.method} {params.weights:q} {params.options:q}"
        " --visible {params.visible:q} --infrared {params.infrared:q} --names {input.names:q}"
        ' --device {params.device} --threads {threads} --output "$(dirname {output:q})" 2>&1 | tee {log:q}'
