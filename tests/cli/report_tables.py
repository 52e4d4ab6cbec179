"""The tables of report.md against the numbers of report.json, written here once more."""


def read(path):
    """{title: [row]} with the head as first row; every cell without its padding."""
    tables, title = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("## "):
            title = line[3:]
            assert title not in tables, title
            tables[title] = []
        elif line.startswith("|---"):
            continue
        elif line:
            tables[title].append([cell.strip() for cell in line.strip("|").split("|")])
    return tables


def interval(figure, form, factor=1):
    value, low, high = (form % (factor * figure[end]) for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def of_policies(report):
    for p in report["policies"]:
        yield [p["policy"], str(p["tokens"]), "%.3f" % p["mean_bits"]["value"], interval(p["kl_mean"], "%.3g"),
               interval(p["kl_median"], "%.3g"), interval(p["kl_p99"], "%.3g"), "%.3g" % p["kl_max"],
               interval(p["top1_agreement"], "%.1f", 100), interval(p["perplexity"], "%.2f")]


def against_static(comparisons, policy):
    for against in ("static mixed plans", "static uniform"):
        found, = (c for c in comparisons if (c["policy"], c["against"]) == (policy, against))
        yield interval(found["kl_ratio"], "%.3f")
        yield interval(found["bytes_ratio"], "%.3f")


def of_equal_bytes(report):
    for c in report["comparisons"]:
        if c["against"] not in ("static mixed plans", "static uniform"):
            yield [c["policy"], interval(c["kl_ratio"], "%.3f"), *against_static(report["comparisons"], c["policy"])]


def of_oracle(report):
    policies = {p["policy"]: p for p in report["policies"]}
    comparisons = report["oracle_comparisons"]
    for name in dict.fromkeys(c["policy"] for c in comparisons):
        p = policies[name]
        own = ["%.3f" % p["mean_bits"]["value"], interval(p["kl_mean"], "%.3g")] if p["kind"] == "oracle" else ["", ""]
        windows, = {str(c["windows"]) for c in comparisons if c["policy"] == name}
        yield [name, windows, *own, *against_static(comparisons, name)]


def of_predictions(report):
    policies = {p["policy"]: p for p in report["policies"]}
    for prediction in report["prediction"]:
        p = policies[prediction["policy"]]
        within = interval(p["requests_within"], "%.1f", 100) if p["requests"] else "-"
        yield ["%.3g" % p["max_mean_kl"], "%.3g" % prediction["predicted"], interval(p["kl_mean"], "%.3g"), within]


def of_tasks(report):
    for row in zip(*(task["policies"] for task in report["tasks"])):
        yield [row[0]["policy"], *("%.1f, %.2f bits, %s" % (100 * p["accuracy"]["value"], p["mean_bits"],
                                                            interval(p["against_8_bits"], "%.1f", 100)) for p in row)]


def of_answers(report):
    for p in report["answers"]["policies"]:
        yield [p["policy"], "%.2f" % p["mean_bits"]["value"], interval(p["tokens"], "%.1f"),
               interval(p["repeated_4grams"], "%.1f", 100), interval(p["rouge_l"], "%.3f"),
               "%.1f" % (100 * p["equal"]["value"])]


def of_comparisons(comparisons):
    for c in comparisons:
        yield [c["policy"], c["against"], interval(c["kl_ratio"], "%.3f"), interval(c["bytes_ratio"], "%.3f")]


def expected(report):
    """{title: [row]} without heads."""
    tables = {
        "What was measured": [[name, str(value)] for name, value in report.items() if isinstance(value, (str, int))],
        "Claims": [[c["policy"], c["claim"], "yes" if c["holds"] else "NO"] for c in report["claims"]],
        "All policies": of_policies(report),
        "At equal bytes": of_equal_bytes(report),
        "Expected and measured": of_predictions(report),
    }
    for title, part, rows in (("The oracle", "oracle_comparisons", of_oracle), ("Tasks", "tasks", of_tasks),
                              ("Free answers", "answers", of_answers)):
        if part in report:
            tables[title] = rows(report)
    for ablation in report.get("ablations", ()):
        tables[f"Ablation: {ablation['name']}"] = of_comparisons(ablation["comparisons"])
    return {title: list(rows) for title, rows in tables.items()}


def check(test, folder, report):
    """Compares every table of folder/report.md."""
    found = read(folder / "report.md")
    wanted = expected(report)
    test.assertEqual(set(found), set(wanted))
    for title, (head, *rows) in found.items():
        with test.subTest(table=title):
            test.assertEqual(rows, wanted[title])
            test.assertTrue(rows, "an empty table")
            test.assertEqual({len(row) for row in rows}, {len(head)})
