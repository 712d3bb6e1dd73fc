"""Shows the result of the speed benchmark as Markdown."""

from benchmarks.speed.compare import by_kind
from benchmarks.speed.run_case import COMPILED, EAGER, NNUNET, OURS


def report(result: dict) -> str:
    """The whole result for people, ready for docs/performance.md."""
    parts = [head(result), limits(result["ceilings"])]
    parts += [case_table(case) for case in result["cases"]]
    parts.append(scaling_table(result["scaling"]))
    if result["problems"]:
        parts.append("Not measured:\n" + "\n".join(f"- {line}" for line in result["problems"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def head(result: dict) -> str:
    """Machine, software, and how to read the tables."""
    machine = result["machine"]
    lines = [
        f"{machine['date']}, commit {machine['git'][:12]}, {machine['cpu']} "
        f"({machine['cores']} cores, {machine['memory_gib']} GiB, {' '.join(machine['features'])})"
    ]
    for side, facts in result["software"].items():
        versions = " ".join(f"{name} {version}" for name, version in facts["versions"].items())
        lines.append(f"- {side}: {facts['device']}; {versions}; {facts['malloc']}")
    lines.append(
        "\nMedian [least-most] of calls in turn with the other side's. `x` is the other side's "
        "median divided by ours: above 1, ours is faster. FLOPs of matrix products and "
        "convolutions alone; `of matmul`: of the device's fastest matrix product in this dtype; "
        "`of roofline`: of the least time that matrix products and memory would allow."
    )
    return "\n".join(lines)


def limits(rows: list[dict]) -> str:
    """The device's ceilings."""
    lines = ["| ceiling | dtype | by | rate |", "|---|---|---|---|"]
    for row in rows:
        unit, scale = ("GB/s", 1e9) if not row["dtype"] else ("TFLOP/s", 1e12)
        rate = f"{row['rate'] / scale:.3g} {unit}"
        lines.append(f"| {row['what']} | {row['dtype'] or 'float32'} | {row['side']} | {rate} |")
    return "\n".join(lines) if rows else ""


def case_table(case: dict) -> str:
    """One case: what the outputs differ by, the rows, the memory."""
    lines = [f"### {case['title']}", ""]
    for side, found in case["differences"].items():
        differences = ", ".join(f"{name} {value:.1e}" for name, value in by_kind(found).items())
        lines.append(f"Largest relative difference from {side}: {differences}.")
    if case["wrong"]:
        lines.append(f"**OUTPUTS DIFFER: {', '.join(case['wrong'])}.**")
    by_row = {}
    for row in case["rows"]:
        by_row.setdefault(row["row"], {})[row["side"]] = row
    others = [s for s in (EAGER, COMPILED, NNUNET) if any(s in sides for sides in by_row.values())]
    header = ["ms", OURS, *[cell for side in others for cell in (side, "x")]]
    header += ["GFLOP", "of matmul", "of roofline", "compile, s", "temporary, MiB"]
    lines += ["", _line(header), _line(["---"] * len(header))]
    for name, sides in by_row.items():
        lines.append(_line(_cells(name, sides, others)))
        if name == "head forward+backward" and "head forward" in by_row:
            lines.append(_line(_backward(by_row, others) + [""] * 5))
    lines += ["", *_input(by_row, case), *_memory(case)]
    return "\n".join(lines).strip()


def scaling_table(rows: list[dict]) -> str:
    """How cost grows."""
    lines = ["| as work grows | |", "|---|---|"]
    lines += [f"| {row['what']} | {row['value']:.4g} {row['unit']} |" for row in rows]
    return "\n".join(lines) if rows else ""


def _cells(name: str, sides: dict, others: list[str]) -> list[str]:
    ours = sides.get(OURS, {})
    cells = [name, _timing(ours)]
    for side in others:
        cells += [_timing(sides.get(side)), _ratio(_median(sides.get(side)), _median(ours))]
    cells.append(f"{ours['flops'] / 1e9:.3g}" if "flops" in ours else "")
    for kind in ("matmul_fraction", "roofline_fraction"):
        cells.append(f"{100 * ours[kind]:.0f} %" if kind in ours else "")
    compiled = [(sides.get(side) or {}).get("compile_seconds") for side in (OURS, COMPILED)]
    cells.append(" / ".join(f"{s:.1f}" for s in compiled if s is not None))
    used = ours.get("temporary_bytes")
    return [*cells, f"{used / 2**20:.0f}" if used is not None else ""]


def _backward(by_row: dict, others: list[str]) -> list[str]:
    """The difference of two rows' medians."""
    medians = {}
    for side in (OURS, *others):
        both, forward = (
            _median(by_row[name].get(side)) for name in ("head forward+backward", "head forward")
        )
        medians[side] = both - forward if both and forward else None
    shown = {side: "" if s is None else f"{1e3 * s:.4g}" for side, s in medians.items()}
    cells = ["head backward (difference)", shown[OURS]]
    for side in others:
        cells += [shown[side], _ratio(medians[side], medians[OURS])]
    return cells


def _input(by_row: dict, case: dict) -> list[str]:
    """The pipeline's speed against what the training step consumes."""
    steps = [_median(by_row.get(n, {}).get(OURS)) for n in ("augmented train step", "train step")]
    step, batch = next((s for s in steps if s), None), _median(by_row.get("input", {}).get(OURS))
    if not step or not batch:
        return []
    count = case["case"]["batch"]
    return [
        f"Input: {count / batch:.0f} slices/s, {step / batch:.1f} times what the training step "
        f"consumes ({count / step:.1f} slices/s)."
    ]


def _memory(case: dict) -> list[str]:
    peaks = [f"{p['side']} {p['part']} {p['bytes'] / 2**20:.0f} MiB" for p in case["peaks"]]
    return [f"Peak memory so far: {', '.join(peaks)}."] if peaks else []


def _timing(row: dict | None) -> str:
    if row is None:
        return ""
    if "skipped" in row:
        return f"not run: {row['skipped']}".replace("|", "/")
    times = (1e3 * row["seconds"][name] for name in ("median", "min", "max"))
    return "{:.4g} [{:.4g}-{:.4g}]".format(*times)


def _median(row: dict | None) -> float | None:
    return row["seconds"]["median"] if row and "seconds" in row else None


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs and ours and ours > 0 else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
