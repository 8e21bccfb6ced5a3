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
    name = DATASET["name"] if SYNTHETIC else f"{DATASET['name']} in {dataset_root()}"
    count = f"{len(SEEDS)} seed{'s' if len(SEEDS) > 1 else ''}"
    if "table2" in config["tables"]:
        return describe(
            f"{len(VARIANTS)} variants x {count} of {detector['model']} at {detector['image_size']} pixels on {name}",
            VARIANTS,
            {
                "fused": fused,
                "detectors trained": [f"{run}/weights.pt" for run in runs],
                "detectors tested": [f"{run}/ap.json" for run in runs],
            },
            [*remarks, cost_line(Path(RESULTS) / "detection/cost.json")],
        )
    alone = "fusion" in config["tables"]
    what = f"fusion metrics of {len(METHOD_NAMES)} methods on {name}"
    return describe(
        f"{what if alone else ', '.join(config['tables'])}; no detector is trained",
        METHOD_NAMES,
        {"fused": fused} if alone else {},
        remarks,
    )
