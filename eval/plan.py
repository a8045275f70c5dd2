"""What an evaluation will take, told from its config: cells, samples, tokens, GPU-hours. Loads no engine, no weights.

Tokens at most are bounds. Tokens expected, and what follows from them, are estimates with these assumptions:

- A model thinks for `expected_thinking_tokens` where nothing is forced, and each end that is ignored adds 7% of it
  (s1-32B on AIME24: 6,109 without, 8,462 after six; the s1 paper, Table 13 and Figure 4). An answer has 750 tokens
  (Table 12).
- Cells that ask alike share a trajectory (inference/continuations.py); another ignore text is a branch of its own.
- Rejection sampling takes `expected_tries`; else one try for a limit that the model keeps by itself, and all of them
  for a lower one. Its limits share their tries.
- Thinking that is ended where nothing is left of the steps asked for takes at most 100 tokens a step.
- A GPU is an H100 (data sheet, SXM) and reaches half of what its memory or its arithmetic, whichever is slower, allows
  while all sequences are decoded together; one that does not hold the model shares it with others, at no loss. Reading
  prompts, loading, the end, when few sequences are left, and what a scorer reads are not counted. Shards are counted
  together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.config import UserError
from core.cost import PEAK_FLOPS, ModelShape
from eval.benchmarks import find_benchmark, load_benchmark
from eval.cells import Cell
from eval.config import EXPECTED_THINKING, EvalConfig
from eval.draw import load_questions
from eval.rejection import RejectionConfig
from eval.search import SearchConfig
from eval.work import check_parts, grid_of, repeats_of
from inference.checkpoint import local_folder

GPU = "H100"
BANDWIDTH = 3.35e12  # bytes a second of its memory
FLOAT32_FLOPS = 67e12  # without TF32, which vLLM and torch leave off for float32
EFFICIENCY = 0.5
GROWTH = 0.07  # of thinking, for each end ignored
ANSWER = 750
Pool = RejectionConfig | SearchConfig


@dataclass(frozen=True)
class Planned:
    """One cell on one benchmark. at_most, expected: tokens sampled for one sample, all tries or paths together."""

    benchmark: str
    cell: Cell
    num_questions: int
    repeats: int
    at_most: int
    expected: int

    @property
    def num_samples(self) -> int:
        return self.num_questions * self.repeats


@dataclass(frozen=True)
class Plan:
    """sampled: expected tokens, each trajectory counted once. gpu_hours: None where the model's sizes are not known.
    sizes: whose they are."""

    cells: list[Planned]
    sampled: int
    sizes: str | None
    gpu_hours: float | None

    @property
    def at_most(self) -> int:
        return sum(one.num_samples * one.at_most for one in self.cells)


def plan_of(config: EvalConfig) -> Plan:
    """Raises UserError for what is wrong in the grid, for questions that can neither be read nor are known, and for a
    model's folder that is none."""
    cells, pools = grid_of(config)
    parts = list(_parts_of(config))
    check_parts(config, [(benchmark, repeats) for benchmark, _, repeats in parts], cells)
    if config.model is not None:
        local_folder(config.model)
    planned: list[Planned] = []
    sampled = sequences = unforced = 0  # the last: thinking tokens of all sequences, nothing forced
    beside = max([1, *(pool.window if isinstance(pool, RejectionConfig) else pool.n for pool in pools.values())])
    for benchmark, num_questions, repeats in parts:
        natural = config.expected_thinking_tokens.get(benchmark, EXPECTED_THINKING)
        own = [
            Planned(benchmark, cell, num_questions, cell.repeats or repeats, *_tokens(config, cell, pools, natural))
            for cell in cells
        ]
        planned += own
        sampled += num_questions * _shared(own, natural, pools, config)
        sequences += num_questions * repeats
        unforced += num_questions * repeats * natural
    sizes, hours = next((name for name in (config.model, config.sizes_of) if _shape(name)), None), None
    if sizes:
        parallel = min(config.engine.max_num_seqs, sequences * beside)
        context = (unforced / sequences + ANSWER) / 2
        hours = sampled * gpu_seconds(_shape(sizes), config.engine.dtype, parallel, context) / 3600
    return Plan(planned, sampled, sizes, hours)


def _parts_of(config: EvalConfig) -> Iterator[tuple[str, int, int]]:
    """(benchmark, questions, repeats). Rows are read where they are files here; of the hub's the number is known."""
    if config.questions is not None:
        yield "questions", len(load_questions(config.questions, config.limit)), config.repeats or 1
    for name in config.benchmarks:
        benchmark, _ = find_benchmark(name)
        if config.root is None and benchmark.hub_id and benchmark.expected is not None:
            number = min(benchmark.expected, config.limit or benchmark.expected)
        else:
            number = len(load_benchmark(name, config.root, config.limit, config.seed)[1])
        yield benchmark.name, number, repeats_of(config, benchmark)


def _tokens(config: EvalConfig, cell: Cell, pools: dict[Cell, Pool], natural: int) -> tuple[int, int]:
    """(at most, expected) of one sample of the cell by itself."""
    budget, answer = cell.budget, min(ANSWER, cell.budget.max_answer_tokens)
    if budget.max_thinking_tokens is None and config.profile == "plain":  # the whole turn is the answer
        most = min(budget.max_answer_tokens, config.engine.max_model_len)
        return most, min(natural + ANSWER, most)
    limit = _limit(config, cell)
    kept = min(limit, cell.limit) if cell.forced else limit
    thinking = min(kept, round(max(natural, budget.min_thinking_tokens) * (1 + GROWTH * budget.num_ignore)))
    pool = pools.get(cell)
    if isinstance(pool, RejectionConfig):
        known = dict(zip(pool.limits, pool.expected_tries, strict=False))
        tries = min(pool.max_tries, known.get(budget.max_thinking_tokens, 1 if limit >= natural else pool.max_tries))
        return pool.max_tries * limit + budget.max_answer_tokens, tries * thinking + answer
    paths = pool.n if pool else 1
    return paths * (limit + budget.max_answer_tokens), paths * (thinking + answer)


def _limit(config: EvalConfig, cell: Cell) -> int:
    """Thinking tokens that the cell can sample: its own limit, or what the context leaves beside an answer."""
    room = max(1, config.engine.max_model_len - cell.budget.max_answer_tokens)
    limit = cell.budget.max_thinking_tokens
    rounds = cell.budget.num_ignore + 1 if config.budget_per_round else 1
    return min(room, limit * rounds) if isinstance(limit, int) else room


def _shared(own: Sequence[Planned], natural: int, pools: dict[Cell, Pool], config: EvalConfig) -> int:
    """Expected tokens for one question: the longest cell of those that ask alike, and an answer for each cell."""
    total = 0
    longest: dict[tuple, int] = {}  # (what is asked, text that replaces an end or None for what is before it): tokens
    for one in own:
        cell, answer = one.cell, min(ANSWER, one.cell.budget.max_answer_tokens)
        if one.expected <= answer or isinstance(pools.get(cell), SearchConfig):
            total += one.repeats * one.expected
            continue
        asked = (cell.way, cell.control, cell.asked, cell.profile(config.profile))
        before = after = one.expected - answer
        if cell.budget.num_ignore or cell.budget.min_thinking_tokens:
            before = min(before, natural)
        for key, tokens in (((asked, None), before), ((asked, cell.budget.ignore_text), after - before)):
            longest[key] = max(longest.get(key, 0), one.repeats * tokens)
        total += one.repeats * answer
    return total + sum(longest.values())


def _shape(model: str | None) -> ModelShape | None:
    try:
        return ModelShape.of(model) if model else None
    except UserError:
        return None


def gpu_seconds(shape: ModelShape, dtype: str, parallel: int, context: float) -> float:
    """Of one token: weights are read once for all sequences, keys and values of `context` tokens for each."""
    size, peak = (4, FLOAT32_FLOPS) if dtype == "float32" else (2, PEAK_FLOPS[GPU])
    keys_and_values = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim * size
    reading = (size * shape.num_matmul_parameters / parallel + keys_and_values * context) / BANDWIDTH
    computing = 2 * shape.num_matmul_parameters / peak
    return max(reading, computing) / EFFICIENCY


def lines_of(plan: Plan, config: EvalConfig) -> list[str]:
    """A line a cell, then the sums."""
    table = [("benchmark", "cell", "questions x repeats", "tokens a sample: at most", "expected")]
    table += [
        (p.benchmark, p.cell.label, f"{p.num_questions:,} x {p.repeats}", f"{p.at_most:,}", f"{p.expected:,}")
        for p in plan.cells
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    samples = sum(one.num_samples for one in plan.cells)
    return [
        *lines,
        f"{samples:,} samples; at most {plan.at_most:,} tokens, expected {plan.sampled:,} (estimate; what cells share "
        "is counted once)",
        f"{cost_line(plan, config)}; nothing was sampled (dry_run)",
    ]


def cost_line(plan: Plan, config: EvalConfig) -> str:
    if config.chat_model is not None:
        return "GPU-hours: none here, the endpoint is paid by token"
    if plan.gpu_hours is None:
        return f"GPU-hours: not known, as the sizes of {config.model} are not at hand; name a like model by sizes_of="
    whose = "" if plan.sizes == config.model else f", sizes of {plan.sizes}"
    parameters = ModelShape.of(plan.sizes).num_parameters / 1e9
    hours = f"{plan.gpu_hours:,.1f}" if plan.gpu_hours >= 1 else f"{plan.gpu_hours:.1g}"
    return (
        f"GPU-hours: {hours} (estimate: {GPU} at {EFFICIENCY:.0%} of its memory's or arithmetic's speed, "
        f"{parameters:.2f} billion parameters in {config.engine.dtype}{whose})"
    )
