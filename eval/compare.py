"""Sets finished eval runs side by side: which differences are real, and what each method buys at its price.

    python -m eval.compare runs=[outputs/eval/a-1234abcd,outputs/eval/b-5678abcd]
    python -m eval.compare runs=[...] "pairs=[{a: {run: a, cell: max=512}, b: {run: b, cell: max=512}}]"
    python -m eval.compare runs=[...] "optimal={run: other-seed, cell: max=auto}"

Every cell is compared with the first one of its benchmark, or the pairs that are named, over the same questions. With
`optimal`, the best method per difficulty is chosen on one half of the questions and reported on the other; let a run of
another seed say what is difficult. Writes compare.json, compare.md and compare.png.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError, option, run_entry
from core.log import say
from core.runs import open_run
from eval.compare_report import name_of, picture, to_markdown, tokens_of
from eval.comparison import (
    EvalCell,
    against_reference,
    compare_pair,
    methods_by_price,
    optimal_choice,
    wait_pairs,
)
from eval.whole_run import check_run, read_json, read_run


@dataclass
class CellName:
    run: str | None = option(None, help="name or folder of a run; null where there is one run")
    cell: str = option(help="label of the cell")


@dataclass
class Pair:
    a: CellName = option(CellName, help="the cell of interest")
    b: CellName = option(CellName, help="what it is compared with")


@dataclass
class Optimal(CellName):
    num_bins: int = option(5, help="of difficulty, of about the same size")
    budgets: list[float] = option([], help="mean tokens a question; none named: doublings of the cheapest")


@dataclass
class CompareConfig:
    runs: list[str] = option(help="finished runs of eval.run")
    name: str = option("cells", help="run name; the folder is outputs/compare/<name>-<digest>")
    pairs: list[Pair] = option([], help="{a: {run, cell}, b: {run, cell}}: a minus b; none: every cell minus the first")
    common: bool = option(False, help="where questions differ, compare those that both have")
    optimal: Optimal | None = option(
        None, help="{run, cell, num_bins, budgets}: compute-optimal choice, difficulty being the scores in this cell"
    )
    num_resamples: int = option(10_000, help="of the bootstraps")
    seed: int = option(0, help="of the bootstraps and of the halves of the compute-optimal choice")


def named_runs(paths: list[str]) -> dict[str, str]:
    """{name: folder}; runs of one name go by their folder's. Raises UserError for a run that is not finished."""
    if not paths:
        raise UserError("runs is empty: name at least one finished run of eval.run")
    names = [read_json(check_run(path), "run.json")["name"] for path in paths]
    keys = [Path(p).resolve().name if names.count(n) > 1 else n for p, n in zip(paths, names, strict=True)]
    if len(set(keys)) < len(keys):
        raise UserError("runs names a run twice")
    return dict(zip(keys, paths, strict=True))


def cells_named(name: CellName, cells: list[EvalCell], paths: dict[str, str], key: str) -> dict[str, EvalCell]:
    """{benchmark: the cell of that name}. Raises UserError, with what there is, where no cell has it or two runs do."""
    runs = [run for run in paths if name.run in (None, run, paths[run], Path(paths[run]).name)]
    if len(runs) != 1:
        raise UserError(f"{key}: run={name.run} is {len(runs)} of the runs {', '.join(paths)}; name one")
    own = [cell for cell in cells if cell.run == runs[0]]
    found = {cell.benchmark: cell for cell in own if cell.cell == name.cell}
    if not found:
        known = ", ".join(dict.fromkeys(cell.cell for cell in own))
        raise UserError(f"{key}: run {runs[0]} has no cell {name.cell!r}; it has {known}")
    return found


def pairs_of(config: CompareConfig, cells: list[EvalCell], paths: dict[str, str]) -> list[tuple[EvalCell, EvalCell]]:
    """The pairs to compare, on every benchmark that both cells have."""
    if not config.pairs:
        return against_reference(cells)
    pairs = []
    for pair in config.pairs:
        a, b = cells_named(pair.a, cells, paths, "pairs"), cells_named(pair.b, cells, paths, "pairs")
        benchmarks = [benchmark for benchmark in a if benchmark in b]
        if not benchmarks:
            raise UserError(f"pairs: {pair.a.cell!r} is on {', '.join(a)}, {pair.b.cell!r} on {', '.join(b)}")
        pairs += [(a[benchmark], b[benchmark]) for benchmark in benchmarks]
    return pairs


def compare(config: CompareConfig) -> dict[str, Any]:
    """Everything that compare.json holds. Raises UserError for runs, cells or questions that do not fit together."""
    paths = named_runs(config.runs)
    cells: list[EvalCell] = []
    votes: list[dict[str, Any]] = []
    for run, path in paths.items():
        whole = read_run(path, run)
        cells += whole.cells
        votes += whole.votes
    settings = {"common": config.common, "num_resamples": config.num_resamples, "seed": config.seed}
    benchmarks = dict.fromkeys(cell.benchmark for cell in cells)
    optimal = []
    if config.optimal is not None:
        for cell in cells_named(config.optimal, cells, paths, "optimal").values():
            bins, budgets = config.optimal.num_bins, config.optimal.budgets
            optimal.append(optimal_choice(cells, votes, cell, bins, budgets, **settings))
    return {
        "pairs": [compare_pair(a, b, **settings) for a, b in pairs_of(config, cells, paths)],
        "waits": [compare_pair(a, b, **settings) for a, b in wait_pairs(cells)],
        "methods": {benchmark: methods_by_price(cells, votes, benchmark) for benchmark in benchmarks},
        "optimal": optimal,
    }


def _print(result: dict[str, Any]) -> None:
    for p in result["pairs"] + result["waits"]:
        sides = " - ".join(f"{name_of(p[side])} {p[side]['accuracy']:.1f}%" for side in ("a", "b"))
        say(f"{p['benchmark']}: {sides} = {p['difference']:+.1f} [{p['low']:.1f}, {p['high']:.1f}] | n "
            f"{p['num_questions']} | flips +{p['wrong_to_right']} -{p['right_to_wrong']} | p {p['mcnemar_p']:.2g}"
            )  # fmt: skip
    for benchmark, methods in result["methods"].items():
        say(f"{benchmark}: {'tokens':>8} {'accuracy':>9}  95% interval")
        for m in methods:
            say(f"{benchmark}: {tokens_of(m):>8} {m['accuracy']:>8.1f}%  [{m['low']:.1f}, {m['high']:.1f}]  "
                f"{'*' if m['best_so_far'] else ' '} {m['run']} {m['method']}")  # fmt: skip
    for optimal in result["optimal"]:
        for p in optimal["points"]:
            difference, low, high = (100 * x for x in p["optimal_minus_single"])
            say(f"{optimal['benchmark']}: at {p['budget']:,.0f} tokens compute-optimal {100 * p['optimal']:.1f}%, best "
                f"single {100 * p['single']:.1f}%, {difference:+.1f} [{low:.1f}, {high:.1f}], oracle "
                f"{100 * p['oracle']:.1f}%")  # fmt: skip


def main(config: CompareConfig) -> Path:
    inputs = {f"run {name}": path for name, path in named_runs(config.runs).items()}
    with open_run("compare", config, inputs) as run:
        if run.is_done:
            return run.path
        result = compare(config)
        picture(result["methods"]).savefig(run.path / "compare.png", dpi=200)
        (run.path / "compare.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        (run.path / "compare.md").write_text(to_markdown(result, "compare.png"))
        _print(result)
        run.finish(num_pairs=len(result["pairs"]), benchmarks=list(result["methods"]))
    return run.path


if __name__ == "__main__":
    run_entry(main, CompareConfig, __doc__)
