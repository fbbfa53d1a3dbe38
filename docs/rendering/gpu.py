"""Tables of what was tried on a GPU, from the files of tests/gpu."""

from __future__ import annotations

from typing import Any

from rendering.markdown import table

Row = dict[str, Any]

_ABSENT = "not installed"


def about(report: Any) -> str:
    """The card and the versions, of all runs of a part."""
    named = [report["hardware"], f"torch {report['torch']}"]
    for name in ("higher", "torchopt"):
        versions = [machine["versions"].get(name) for machine in report["machines"]]
        named += [f"{name} {v}" for v in dict.fromkeys(versions) if v not in (None, _ABSENT)]
    runs = len({machine["code"] for machine in report["machines"]})
    return ", ".join([*named, f"{runs} runs"] if runs > 1 else named)


def right(report: Any) -> str:
    """The checks against a CPU by kind: how many there are, how many passed, the worst error."""
    cases = [row["case"] for row in report["rows"]] + report["not_run"]
    results: dict[str, list[Row]] = {kind_of(case): [] for case in cases}
    for row in report["rows"]:
        if "unfinished" not in row:
            results[kind_of(row["case"])].append(row)
    missing = [kind_of(case) for case in report["not_run"]]
    cells = []
    for kind, rows in results.items():
        errors = [error_of(row) for row in rows if "error" not in row]
        limits = sorted({row["limit"] for row in rows if "limit" in row})
        cells.append(
            [
                kind,
                sum(row.get("ok", False) for row in rows) if rows else "",
                sum(not row.get("ok", False) for row in rows) or "",
                missing.count(kind) or "",
                f"{max(errors):.1e}" if errors else "",
                ", ".join(f"{limit:g}" for limit in limits),
            ]
        )
    passed, failed, left = (sum(row[place] or 0 for row in cells) for place in (1, 2, 3))
    head = ["check", "passed", "failed", "not run", "worst error", "limit"]
    # A column of nothing says nothing.
    shown = [0, 1, *([2] if failed else []), *([3] if left else []), 4, 5]
    head, cells = [head[at] for at in shown], [[row[at] for at in shown] for row in cells]
    said = f"{passed} checks passed, {failed} failed, {left} did not run."
    return f"{table(head, cells, 'l' + 'r' * (len(head) - 1))}\n\n{said} {about(report)}."


def kind_of(case: Row) -> str:
    """What a check is of, without the network and the optimizer."""
    if case["check"] == "hypergradient":
        named = ["hypergradient", case["how"], case["dtype"]]
        named += [f"{case['autocast']} autocast"] if "autocast" in case else []
        named += [f"{case['storage']} storage"] if "storage" in case else []
        named += ["dropout"] if "dropout" in case else []
        named += ["tf32"] if "tf32" in case else []
        return ", ".join(named)
    if case["check"] == "layer":
        return f"layer, {case['how']}"
    return {"resume": "a resumed run", "travel": "a set saved on the GPU, read without"}[
        case["check"]
    ] + (f", {case['compile']}" if "compile" in case else "")


def error_of(row: Row) -> float:
    """The largest relative error of a check."""
    if "errors" in row:
        return max(row["errors"].values())
    return row.get("relative_error", row.get("difference_of_movement", 0.0))


def fast(report: Any) -> str:
    """Time, memory and launches by network, tool and number of steps."""
    launches = {key_of(row): row["launches_of_a_step"] for row in launched(report["rows"])}
    before = {key_of(row): row["launches_of_a_step"] for row in first(launched(report["replaced"]))}
    cells = []
    for row in timed(report["rows"]):
        key, now = key_of(row), ""
        if key in launches:
            now = f"{launches[key]:.0f}"
            was = before.get(key, launches[key])
            now += f" (was {was:.0f})" if was > 2 * launches[key] else ""
        cells.append(
            [
                f"{row['case']['model']}, {row['case']['tool']}",
                row["case"]["steps"],
                f"{row['seconds']:.3f}",
                ratio(row, "higher"),
                ratio(row, "plain"),
                f"{row['peak_bytes'] / 1e6:,.0f}",
                now,
            ]
        )
    head = ["network, tool", "K", "seconds", "times higher", "times plain", "peak MB"]
    head += ["launches of an inner step"]
    missing: dict[str, list[str]] = {}
    for case in report["not_run"]:
        if "tool" in case:
            what = f"K = {case['steps']}" if "steps" in case else "launches"
            missing.setdefault(f"{case['model']}, {case['tool']}", []).append(what)
    listed = "; ".join(f"{name} ({', '.join(what)})" for name, what in missing.items())
    said = f" Did not run: {listed}." if missing else ""
    return f"{table(head, cells, 'lrrrrrr')}\n\n{about(report)}.{said}"


def recorded(report: Any) -> str:
    """The first and the last result of a case, each beside `higher` in its own run."""
    now = {(key_of(row), row["case"]["steps"]): row for row in timed(report["rows"])}
    cells = []
    for row in first(timed(report["replaced"])):
        after = now.get((key_of(row), row["case"]["steps"]))
        pair = [row] if after is None else [row, after]
        compared = len(pair) == 2 and all("ratio_to_higher" in r for r in pair)
        if not compared or not row["case"]["tool"].startswith("ours"):
            continue
        seconds = [f"{r['seconds']:.3f} ({ratio(r, 'higher')})" for r in pair]
        cells.append(
            [f"{row['case']['model']}, {row['case']['tool']}", row["case"]["steps"], *seconds]
        )
    return table(["network, tool", "K", "before", "now"], cells, "lrrr")


def accuracy(report: Any) -> str:
    """The best accuracy of each recipe and its last one, with the seconds and steps before it."""
    recipes: dict[str, list[Row]] = {}
    for row in report["rows"]:
        if "accuracy_mean" in row:
            recipes.setdefault(row["case"]["recipe"], []).append(row)
    cells = []
    for recipe, rows in recipes.items():
        best = max(rows, key=lambda row: row["accuracy_mean"])
        last = max(rows, key=lambda row: row["seconds"])
        cells.append([recipe, len(rows), *reached(best), reached(last)[0], reached(last)[2]])
    head = ["recipe", "evaluations", "best", "outer steps", "seconds", "last", "seconds"]
    return f"{table(head, cells, 'lrrrrrr')}\n\n{about(report)}."


def reached(row: Row) -> tuple[str, str, str]:
    """An accuracy, and the outer steps and seconds of distilling before it."""
    accuracy = f"{100 * row['accuracy_mean']:.1f} ± {100 * row['accuracy_std']:.1f}"
    return accuracy, f"{row['step']:,}", f"{row['seconds']:.0f}"


def timed(rows: list[Row]) -> list[Row]:
    """The rows with a time, by network, tool and number of steps."""
    found = [row for row in rows if "peak_bytes" in row]
    return sorted(found, key=lambda row: (row["case"]["model"], row["case"]["steps"]))


def launched(rows: list[Row]) -> list[Row]:
    """The rows with launches."""
    return [row for row in rows if "launches_of_a_step" in row]


def first(rows: list[Row]) -> list[Row]:
    """The first row of each case, in the order of the runs."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(str(row["case"]), row)
    return list(found.values())


def key_of(row: Row) -> tuple[str, str]:
    """The network and the tool of a row."""
    return row["case"]["model"], row["case"]["tool"]


def ratio(row: Row, other: str) -> str:
    """A time as a multiple of another tool's in the same run."""
    if row["case"]["tool"] == other:
        return "1"
    return f"{row[f'ratio_to_{other}']:.2f}" if f"ratio_to_{other}" in row else ""
