"""What an evaluation is told: the keys of eval.run."""

from dataclasses import dataclass, fields

from core import ask
from core.config import UserError, option
from core.shards import check_shards
from eval.cells import Cells
from eval.chat_model import ChatModelConfig
from eval.judge import JudgeConfig
from eval.rejection import RejectionConfig
from eval.scorers import ScorerConfig, check_scorer
from eval.search import SearchConfig
from inference.engine import EngineConfig, Sampling

EXPECTED_THINKING = 4000  # between s1-32B's 3,298 on MATH500 and its 6,109 on AIME24 (the s1 paper, Table 13)


@dataclass
class EvalConfig:
    name: str = option(help="run name; the folder is outputs/eval/<name>-<digest>")
    model: str | None = option(None, help="local folder or hub id")
    chat_model: ChatModelConfig | None = option(
        None,
        help="instead: a chat endpoint, evaluated by its answers alone: "
        f"{{{', '.join(f.name for f in fields(ChatModelConfig))}}}",
    )
    benchmarks: list[str] = option([], help="names of configs/benchmarks, or YAML files of your own")
    root: str | None = option(None, help="folder of local benchmark files; null reads them from the hub")
    questions: str | None = option(None, help="instead: a finished run of data.collect, or a .jsonl file of questions")
    profile: str = option("s1", help="delimiters: s1, think-tags, steps, plain")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    cells: list[Cells] = option([], help="blocks of the grid; each is the product of its lists (eval/cells.py)")
    rejection: RejectionConfig | None = option(
        None, help=f"rejection sampling: {{{', '.join(f.name for f in fields(RejectionConfig))}}}"
    )
    searches: list[SearchConfig] = option(
        [], help=f"search over thinking, each {{{', '.join(f.name for f in fields(SearchConfig))}}}"
    )
    scorer: ScorerConfig | None = option(
        None,
        help="scores samples for best-of-N and the weighted vote, and steers searches (null: mean_logprob there): "
        f"{{{', '.join(f.name for f in fields(ScorerConfig))}}}",
    )
    ks: list[int] = option([], help="k of the parallel methods; empty: powers of two up to the repeats")
    max_answer_tokens: int = option(512, help="answer limit, reserved in the context")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    budget_per_round: bool = option(False, help="a fresh budget after each ignored end, as the released evaluator")
    repeats: int | None = option(None, help="samples per question and cell; null: the benchmark's, 1 at temperature 0")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    seed: int = option(0, help="of the sampling, and of the order of choices")
    limit: int | None = option(None, help="only the first so many questions of each benchmark")
    judge: JudgeConfig | None = option(
        None, help=f"endpoint that judges what rules cannot: {{{', '.join(f.name for f in fields(JudgeConfig))}}}"
    )
    shard: int = option(0, help="evaluate only the questions of this shard")
    num_shards: int = option(1, help="how many there are")
    merge: bool = option(False, help="join the finished shards into one run")
    regrade: bool = option(False, help="grade the samples of this finished run again", affects_result=False)
    dry_run: bool = option(
        False, help="say cells, samples, tokens and GPU-hours (estimates), and load and sample nothing",
        affects_result=False,
    )  # fmt: skip
    sizes_of: str | None = option(
        None, help="dry_run: a model of the same sizes, for a hub id whose own are not known", affects_result=False
    )
    expected_thinking_tokens: dict[str, int] = option(
        {}, help=f"dry_run: where nothing is forced, by benchmark; {EXPECTED_THINKING:,} for others",
        affects_result=False,
    )  # fmt: skip
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


def check(config: EvalConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    check_shards(config)
    if (config.model is None) == (config.chat_model is None):
        raise UserError("name what to evaluate: model=<folder or hub id>, or chat_model={api: ...} (one of the two)")
    if bool(config.benchmarks) == (config.questions is not None):
        raise UserError("name what to evaluate on: benchmarks=[...], or questions=... (one of the two)")
    if config.scorer is not None:
        check_scorer(config.scorer)
    if config.judge is not None:
        ask.check(config.judge, with_key=False)
    if min(config.ks, default=1) < 1:
        raise UserError(f"ks={config.ks}: k counts samples, from 1")
    if config.limit is not None and config.limit < 1:
        raise UserError(f"limit={config.limit}: at least one question, or null for all")
    if config.repeats is not None and config.repeats < 1:
        raise UserError(f"repeats must be at least 1, not {config.repeats}; null takes each benchmark's own")
