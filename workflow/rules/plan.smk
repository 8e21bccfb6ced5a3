"""What a run will do, told before it starts."""

TEST_SET_TABLES = ("table1", "table1_equal", "table3")


def plan_text():
    """Return what this run compares, what of it is there, and what it costs."""
    detector = config["detection"]
    fused = [f"{RESULTS}/fused/{method}/manifest.csv" for method in METHOD_NAMES]
    runs = [
        f"{RESULTS}/detection/{variant}/seed{seed}"
        for variant in VARIANTS
        for seed in SEEDS
    ]
    remarks = own_remarks()
    chosen = config["fusion"]["methods"]
    if missing := [name for name in chosen if name not in METHOD_NAMES]:
        remarks.append(f"left out, without weights: {', '.join(missing)}")
    if "fnet" in METHOD_NAMES:
        given = given_weights("fnet") or "trained by this run"
        remarks.append(f"FNet's weights: {given}")
    if TRAINED_METHODS:
        remarks.append(f"also trained by this run: {', '.join(TRAINED_METHODS)}")
    if tables := [table for table in config["tables"] if table in TEST_SET_TABLES]:
        remarks.append(
            f"tables on the test sets {', '.join(TEST_SETS)}: {', '.join(tables)}"
        )
    stages = {
        "fused": fused,
        "detectors trained": [f"{run}/weights.pt" for run in runs],
        "detectors tested": [f"{run}/ap.json" for run in runs],
    }
    name = DATASET["name"]
    return describe(
        name if SYNTHETIC else f"{name} in {dataset_root()}",
        VARIANTS,
        SEEDS,
        f"{detector['model']} at {detector['image_size']} pixels",
        stages if "table2" in config["tables"] else {},
        remarks,
        Path(RESULTS) / "detection/cost.json",
    )
