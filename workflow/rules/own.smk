"""Methods of the user's own: what they depend on, how they are passed on, their check before the first job."""

OWN = {
    name: Own(*next(iter(door.items())))
    for name, door in config["fusion"]["own"].items()
}

if clash := sorted(set(OWN) & set(METHODS)):
    raise WorkflowError(
        f"config: fusion.own.method names {clash}; wanted names that no method has"
    )

for name, own in OWN.items():
    # What lies elsewhere for each data set is missed by the rule that reads it.
    if name not in config["fusion"]["methods"] or "{dataset}" in own.target:
        continue
    if own.kind == "folder" and not Path(own.target).is_dir():
        raise WorkflowError(
            f"config: fusion.own.method.{name}: {own.target} is no folder here; wanted one with a fused image for each pair"
        )
    if own.kind == "model" and not Path(own.target).is_file():
        raise WorkflowError(
            f"config: fusion.own.method.{name}: {own.target} is no file here; wanted an ONNX or a TorchScript file"
        )

METHODS = {
    **METHODS,
    **{
        name: own_method(own, config["fusion"]["weights"].get(name))
        for name, own in OWN.items()
    },
}


def own_door(name, dataset):
    """Return an own method as KIND=TARGET, for one data set: its folder may hold `{dataset}`."""
    target = OWN[name].target
    if isinstance(target, list):
        target = join(target)
    if OWN[name].kind == "folder":
        target = target.replace("{dataset}", dataset)
    return f"{OWN[name].kind}={target}"


def own_options(name, dataset=DATASET["name"]):
    """Return the option that hands an own method to a stage; nothing for the others."""
    return ["--own", own_door(name, dataset)] if name in OWN else []


def own_sources(name, dataset=DATASET["name"]):
    """Return the files that an own method is made of; nothing for the others."""
    if name not in OWN:
        return []
    kind, _, target = own_door(name, dataset).partition("=")
    if kind == "folder":
        return [target]
    return [os.path.relpath(path) for path in source_files(Own(kind, target))]


def on_device(method):
    """Return whether a method computes on the GPU where there is one."""
    return METHODS[method].needs_weights or METHODS[method].on_device


def own_checks():
    """Return the commands that check the own methods of this run; noise stands for pairs that are not yet made."""
    commands = []
    for name in [name for name in METHOD_NAMES if name in OWN]:
        words = ["python", "-m", "fusion.check", *own_options(name)]
        words += ["--colour", config["fusion"]["colour"]]
        if weights := config["fusion"]["weights"].get(name):
            words += ["--weights", weights]
        lists = [f"{RESULTS}/data/split/{part}.txt" for part in ("train", "test")]
        if all(map(os.path.exists, lists)):
            words += ["--visible", *folders("visible")]
            words += ["--infrared", *folders("infrared"), "--names", *lists]
        commands.append(join([*words, "--output", f"{RESULTS}/checks/{name}.json"]))
    return commands


def own_remarks():
    """Return what the plan says of this run's own methods and metrics."""
    doors = [
        f"{name} ({own_door(name, '{dataset}')})"
        for name in METHOD_NAMES
        if name in OWN
    ]
    remarks = {
        "own methods, each tried on one pair before the first job": doors,
        "own metrics": sorted(config["metrics"]["own"]),
    }
    return [f"{what}: {', '.join(names)}" for what, names in remarks.items() if names]


onstart:
    for command in own_checks():
        shell("{command}")


def own_metrics():
    """Return the option that hands the user's own metrics to the scoring."""
    chosen = config["metrics"]["own"]
    if not chosen:
        return []
    return [
        "--own-metric",
        *(
            f"{name}:{metric['better']}={metric['callable']}"
            for name, metric in chosen.items()
        ),
    ]


def own_metric_files():
    """Return the files that the user's own metrics are made of."""
    targets = [
        Own("callable", metric["callable"])
        for metric in config["metrics"]["own"].values()
    ]
    return [os.path.relpath(path) for own in targets for path in source_files(own)]
