"""Which methods run, and with which weights."""

if unknown := [name for name in config["fusion"]["methods"] if name not in METHODS]:
    raise WorkflowError(
        f"config: fusion.methods names {unknown}; wanted names of {sorted(METHODS)}"
    )


def given_weights(method):
    """Return the weights that the configuration names for a method: a path, of ours that are shipped too; or None."""
    if method == "fnet":
        given = config["fnet"]["weights"]
    else:
        given = config["fusion"]["weights"].get(method)
    if given == "packaged":
        given = packaged_weights(method)
        if given is None:
            raise WorkflowError(
                f"config: this project ships no weights for {method}; wanted a file"
            )
    return str(given) if given else None


def without_weights():
    """Return why each method that needs weights and is not FNet has none, by its name."""
    reasons = {}
    for method in config["fusion"]["methods"]:
        if not METHODS[method].needs_weights or method == "fnet":
            continue
        given = given_weights(method)
        if given is None:
            reasons[method] = "none named in fusion.weights"
        elif not Path(given).exists():
            reasons[method] = f"{given} does not exist"
    return reasons


def check_trainable(method, reason):
    """Raise WorkflowError for a method without weights that this run cannot train."""
    if METHODS[method].training is None:
        raise WorkflowError(
            f"config: the method {method} has no weights ({reason}) and cannot be trained here"
        )
    frozen = METHODS[method].frozen
    if frozen and not config["fusion"]["training"].get(method, {}).get(frozen):
        raise WorkflowError(
            f"config: to train {method}, name its fusion.training.{method}.{frozen}"
        )


def methods_to_run():
    """Return the methods that get a row, and those of them that this run trains, by `fusion.missing_weights`."""
    chosen, policy = config["fusion"]["methods"], config["fusion"]["missing_weights"]
    missing = without_weights()
    if missing and policy == "refuse":
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise WorkflowError(
            f"config: methods without weights ({reasons}). `python -m fusion.weights` says where they are published; "
            "fusion.missing_weights: train or leave_out goes on without"
        )
    if policy == "train":
        for method, reason in missing.items():
            check_trainable(method, reason)
        return chosen, list(missing)
    for method, reason in missing.items():
        logger.warning(f"left out: {method} has no weights ({reason})")
    return [method for method in chosen if method not in missing], []


def method_training(method):
    """Return the training options of a method other than FNet."""
    return config["fusion"]["training"].get(method, {})


def frozen_weights(method):
    """Return the weights file of the frozen network that a method's losses need, as a list."""
    frozen = METHODS[method].frozen
    return [method_training(method)[frozen]] if frozen else []


def method_weights(method):
    """Return the weights file or folder that a method needs, as a list: the user's, ours that is shipped, or trained."""
    if not METHODS[method].needs_weights:
        return []
    given = None if method in TRAINED_METHODS else given_weights(method)
    return [given or f"<results>/fusion/{method}/weights.safetensors"]


METHOD_NAMES, TRAINED_METHODS = methods_to_run()
