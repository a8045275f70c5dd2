"""Writes what data.filter selected in the published table schemas, and publishes a finished run where asked to.

s1k.parquet, s1k.jsonl             the schema of s1K: one teacher
s1k-1.1.parquet, s1k-1.1.jsonl     the schema of s1K-1.1: two teachers, each graded
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import UserError
from core.log import say
from core.published import S1K_1_1_COLUMNS, S1K_COLUMNS, TEACHERS, s1k_1_1_row, s1k_row
from core.runs import finished
from core.types import Trace, write_jsonl
from eval.grading import grade


def write_tables(folder: Path, traces: Sequence[Trace], second: Mapping[str, Trace] | None = None) -> None:
    """second: question id -> trace of the second teacher; None writes no table of two teachers."""
    _write(folder / "s1k", [s1k_row(trace) for trace in traces], S1K_COLUMNS)
    if second is not None:
        rows = []
        for trace in traces:
            pair = (trace, second.get(trace.question.id))
            # the question of the first: its reference is the one the row shows
            grades = {
                t: given and grade(given.attempt, trace.question) for t, given in zip(TEACHERS, pair, strict=True)
            }
            rows.append(s1k_1_1_row(*pair, grades))
        _write(folder / "s1k-1.1", rows, S1K_1_1_COLUMNS)


def _write(stem: Path, rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "null": pa.null(), "list": pa.list_(pa.string())}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    write_jsonl(stem.with_name(stem.name + ".jsonl"), rows)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), stem.with_name(stem.name + ".parquet"))


PUBLISHED = ("s1k.parquet", "s1k-1.1.parquet", "funnel.json", "funnel.png", "domains.png")


def publish(folder: str | Path, repo: str) -> str:
    """Uploads tables, data card, funnel and pictures of a finished run in one commit. Returns the address.

    A new repository is made private: whether it may be public is a question of the licences on the card.
    Raises UserError where the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = finished(folder)
    files = {"README.md": "datacard.md", **{name: name for name in PUBLISHED if (folder / name).exists()}}
    operations = [CommitOperationAdd(path_in_repo=to, path_or_fileobj=str(folder / own)) for to, own in files.items()]
    try:
        api = HfApi()
        url = api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.create_commit(repo, operations, commit_message=f"Add {folder.name}", repo_type="dataset")
    except (OSError, ValueError) as error:
        raise UserError(f"push={repo}: {str(error).splitlines()[0]} (log in with `hf auth login`)") from None
    num_rows = json.loads((folder / "run.json").read_text())["headline"]["num_selected"]
    say(f"published {num_rows:,} rows: {url}")
    return str(url)
