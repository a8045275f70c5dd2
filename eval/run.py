"""Evaluates a model on benchmarks under a grid of thinking budgets and other ways to spend tokens, and grades it.

    python -m eval.run configs/demo/eval-tuned.yaml model=outputs/train/demo-1234abcd/model questions=outputs/data/...
    python -m eval.run configs/eval/s1-32b.yaml model=simplescaling/s1-32B "benchmarks=[aime24, math500]"
    python -m eval.run configs/eval/s1-32b.yaml model=... "benchmarks=[aime24]" root=<folder of benchmark files>
    python -m eval.run configs/eval/s1-32b.yaml dry_run=true      # its cells, samples, tokens and GPU-hours; no engine
    python -m eval.run ... regrade=true                   # the same command: grades again, without an engine
    ARRAY=0-7 ./launch.sh --slurm eval.run ...            # eight shards; then num_shards=8 merge=true joins them

Cells of one grid share their trajectories (inference/continuations.py), so a curve costs little more than its longest
point. Writes samples.jsonl (a row a sample: appended as they finish, in the grid's order at the end), scores.json (an
entry a benchmark and cell, with intervals) and, for other tools, lm-evaluation-harness's results files.
"""

from pathlib import Path

from core.config import UserError, run_entry
from core.endpoint import read_api_key
from core.log import say
from core.runs import open_run
from core.shards import merge
from eval.config import EvalConfig, check
from eval.outcome import conclude, regrade, settle_by_judge
from eval.plan import lines_of, plan_of
from eval.sampling import sample, sample_replies
from eval.work import work_of


def main(config: EvalConfig) -> Path | None:
    check(config)
    if config.dry_run:
        for line in lines_of(plan_of(config), config):
            say(line)
        return None
    work = work_of(config)
    if config.merge:
        ids = list(dict.fromkeys(id for _, id in work.questions()))
        files = ["samples.jsonl", *(["judged.jsonl"] if config.judge else [])]
        return merge("eval", config, work.inputs, ids, files, lambda run: conclude(config, run, work, {}))
    work = work.of_shard(config.shard, config.num_shards)
    with open_run("eval", config, work.inputs) as run:
        if run.is_done:
            if config.regrade:
                regrade(config, run, work)
            return run.path
        if config.regrade:
            raise UserError(f"regrade=true: {run.path} is not finished; run the command without it first")
        if config.judge:
            read_api_key(config.judge.requests)  # missing, it would be found when all is sampled
        sampled = sample_replies(config, run, work) if config.chat_model else sample(config, run, work)
        if config.judge:
            sampled["judge"] = settle_by_judge(config, run, work)
        run.finish(**conclude(config, run, work, sampled))
    return run.path


if __name__ == "__main__":
    run_entry(main, EvalConfig, __doc__)
