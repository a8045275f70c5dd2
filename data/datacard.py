"""The data card: what a selection is made of, how it was made and how to make it again, from what the run knows."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from core.config import to_yaml
from core.runs import read_record
from core.types import Question, Trace
from data.earlier import Known
from data.sources import SOURCES

STAND_IN = "source"  # data.distill's teacher that hands on the solution a source was published with


def text(
    record: Mapping[str, Any],
    config: Any,
    known: Known,
    steps: Sequence[Mapping[str, Any]],
    published: Mapping[str, tuple[int | None, int | None]],
    unreadable: Mapping[str, Mapping[str, int]],
    traces: Sequence[Trace],
) -> str:
    """The card as Markdown, the same from the same inputs: no time, no machine.

    record: of this run. config: as the user gave it. published: step -> questions that s1's text and notebook count.
    """
    parts = [
        _front_matter(config.name, len(traces), known.second_traces is not None),
        f"# {config.name}",
        _summary(traces, known),
        "## Funnel",
        _funnel(steps, published, unreadable, known.config.pool),
        "## Sources and licences",
        _sources(known.questions, traces),
        "## Domains",
        _domains(traces),
        "## Thinking tokens",
        _tokens(traces),
        "## Teachers and attempts",
        _teachers(traces, known),
        "## How it was made",
        _origin(record, config, known.config),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers with thousands separators, to the right; texts cannot break the table."""
    rows = [[_cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(row[i].replace(",", "").replace(".", "").isdigit() or not row[i] for row in rows)
             for i in range(len(header))]  # fmt: skip
    rule = ["---:" if is_right else "---" for is_right in right]
    return "\n".join("| " + " | ".join(row) + " |" for row in ([*header], rule, *rows))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(shown.replace("|", "\\|").split())


def _front_matter(name: str, num_rows: int, is_pair: bool) -> str:
    """What the hub reads: where the rows are. The licence is that of each source, hence `other`."""
    configs = ["- config_name: default\n  data_files: s1k.parquet"]
    configs += ["- config_name: two_teachers\n  data_files: s1k-1.1.parquet"] * is_pair
    upper = next((label for size, label in _SIZES if num_rows < size), "n>1M")
    lines = ["---", f"pretty_name: {name}", "license: other", "language: [en]", "task_categories: [text-generation]",
             "tags: [reasoning, test-time-scaling]", f"size_categories: [{upper}]",
             "configs:", *configs, "---"]  # fmt: skip
    return "\n".join(lines)


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def _summary(traces: Sequence[Trace], known: Known) -> str:
    config, domains = known.config, {t.question.domain for t in traces}
    how = {
        "diversity": "drawn for diversity: domains alike" + ", longer thinking preferred" * config.prefer_long,
        "random": "drawn at random",
        "longest": "those with the longest thinking",
        "all": "all that the steps below left",
    }[config.selection]
    lines = [
        f"{len(traces):,} questions with worked solutions, from {len(known.questions):,}: {how}. "
        f"{len(domains)} domains, {len({t.question.source for t in traces})} sources."
    ]
    stand_ins = sum(t.teacher == STAND_IN for t in traces)
    if stand_ins:
        lines.append(
            f"**{stand_ins:,} of the {len(traces):,} traces are no reasoning of a model: the solution that the source "
            "itself published stands in for it.** Their lengths say little about difficulty."
        )
    if config.domains is None:
        lines.append("The domains are those of the sources; no question was classified by subject.")
    if not config.contamination:
        lines.append("**Not decontaminated in this run**: evaluation questions may be among the rows.")
    if known.unreachable_sets:
        missing = ", ".join(f"`{path}`" for path in known.unreachable_sets)
        lines.append(f"**Not checked for contamination by** {missing}: these could not be read.")
    if config.diversity_method == "benchmark" and config.selection == "diversity":
        lines.append(
            "From 700 questions on, domains were drawn as GPQA and AIME have them: this is tuned to these two."
        )
    if not config.correct_only:
        lines.append("Traces were kept whether their answer is right or wrong.")
    return "\n\n".join(lines)


def _funnel(
    steps: Sequence[Mapping[str, Any]],
    published: Mapping[str, tuple[int | None, int | None]],
    unreadable: Mapping[str, Mapping[str, int]],
    pool: str | None,
) -> str:
    def reasons_of(step: Mapping[str, Any]) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in step["reasons"].items())

    rows = [(s["step"], s["in"], s["out"], reasons_of(s), *published.get(s["step"], (None, None))) for s in steps]
    lines = [markdown_table(("step", "in", "out", "dropped", "s1: left (paper)", "s1: left (notebook)"), rows)]
    lines.append("Every dropped question lies in `dropped/<step>.jsonl` with its reason.")
    if pool and (Path(pool) / "dropped.jsonl").is_file():
        lines.append(f"Rows of the sources that became no question lie in `{pool}/dropped.jsonl`.")
    for file, counts in unreadable.items():
        shown = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
        lines.append(f"Rows of `{file}` that could not be used: {shown} (`dropped/unreadable.jsonl`).")
    return "\n\n".join(lines)


def dataset_of(question: Question) -> str:
    return question.metadata.get("dataset") or question.source


def _sources(pool: Sequence[Question], traces: Sequence[Trace]) -> str:
    before, after = Counter(dataset_of(q) for q in pool), Counter(dataset_of(t.question) for t in traces)
    rows = [
        (name, before[name], after[name], getattr(SOURCES.get(name), "licence", None) or "not recorded")
        for name in sorted(before, key=lambda name: (-after[name], -before[name], name))
    ]
    return markdown_table(("source", "pool", "selected", "licence of the source"), rows)


def _domains(traces: Sequence[Trace]) -> str:
    lengths: dict[str, list[int]] = {}
    for trace in traces:
        lengths.setdefault(trace.question.domain, []).append(trace.num_thinking_tokens)
    rows = [(domain, len(n), sum(n), round(mean(n))) for domain, n in lengths.items()]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return markdown_table(("domain", "questions", "thinking tokens", "mean"), rows)


def _tokens(traces: Sequence[Trace]) -> str:
    lengths = sorted(t.num_thinking_tokens for t in traces)
    rows = [(lengths[0], round(median(lengths)), round(mean(lengths)), lengths[(95 * (len(lengths) - 1)) // 100],
             lengths[-1], sum(lengths))]  # fmt: skip
    return markdown_table(("shortest", "median", "mean", "95% are at most", "longest", "all"), rows)


def _teachers(traces: Sequence[Trace], known: Known) -> str:
    names = {STAND_IN: f"{STAND_IN} (stand-in: the published solution)"}
    teachers = Counter(names.get(t.teacher, t.teacher) for t in traces).most_common()
    lines = [markdown_table(("teacher", "traces"), sorted(teachers, key=lambda row: (-row[1], row[0])))]
    if known.second_traces is not None:
        have = [known.second_traces[t.question.id] for t in traces if t.question.id in known.second_traces]
        second = ", ".join(sorted({t.teacher for t in have})) or "nobody"
        lines.append(
            "`s1k-1.1` has s1K-1.1's column names, whoever they suggest: `gemini_...` holds the traces above, "
            f"`deepseek_...` those of {second} ({len(have):,} of {len(traces):,}). Rules graded them, not a model."
        )
    if known.attempts:
        rows = []
        for path, model, attempts in known.attempts:
            settings = _config_of(path)
            rows.append((model, settings.get("model"), len(attempts), settings.get("max_answer_tokens")))
        lines.append("Difficulty was judged by these models:")
        lines.append(markdown_table(("name", "model", "questions attempted", "most tokens an attempt"), rows))
    return "\n\n".join(lines)


def _config_of(run: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    file = Path(run) / "config.yaml"
    return OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}


def _origin(record: Mapping[str, Any], config: Any, given: Any) -> str:
    runs = {"questions": given.pool, "traces": given.traces, "second traces": given.second_traces}
    runs |= {f"attempts {i}": path for i, path in enumerate(given.attempts if given.difficulty else ())}
    runs |= {"domains": given.domains}
    rows = []
    for what, path in runs.items():
        if path:
            made = read_record(path) if Path(path).is_dir() else {}
            rows.append((what, f"`{path}`", made.get("seed"), (made.get("commit") or "")[:10]))
    lines = [
        f"Commit {record['commit'][:10]}{' with uncommitted changes' * record['dirty']}, seed {config.seed} of the "
        f"selection. The same inputs and seed give the same bytes.",
        f"```\n{shlex.join(record['command'])}\n```",
        f"```yaml\n{to_yaml(config).rstrip()}\n```",
        "The runs it read:",
        markdown_table(("what", "run", "seed", "commit"), rows),
    ]
    return "\n\n".join(lines)
