"""Every question lies in one shard; finished shards become one run, and nothing else does."""

from dataclasses import dataclass, replace

import pytest

from core.config import UserError
from core.runs import open_run, read_record
from core.shards import added_up, check_shards, in_shard, merge
from core.types import question_id, read_jsonl, write_jsonl

IDS = [question_id(str(i)) for i in range(200)]


@dataclass
class Config:
    name: str = "t"
    shard: int = 0
    num_shards: int = 3
    merge: bool = False


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("{}\n")


def finish_shard(shard: int) -> None:
    with open_run("data", Config(shard=shard), {"pool": "in.jsonl"}) as run:
        mine = [id for id in IDS if in_shard(id, shard, 3)]
        write_jsonl(run.path / "kept.jsonl", [{"question_id": id} for id in mine[1:]])
        write_jsonl(run.path / "dropped.jsonl", [{"reason": "x", "question": {"id": id}} for id in mine[:1]])
        run.finish(num_kept=len(mine) - 1, dropped={"x": 1}, cost=0.5)


def merge_all():
    return merge("data", Config(merge=True), {"pool": "in.jsonl"}, IDS, ["kept.jsonl", "dropped.jsonl"])


def test_every_question_lies_in_one_shard():
    for num_shards in (1, 2, 7):
        sizes = [sum(in_shard(id, shard, num_shards) for id in IDS) for shard in range(num_shards)]
        assert sum(sizes) == len(IDS) and min(sizes) > 0
    assert in_shard("ff", 3, 4) and not in_shard("ff", 0, 4)
    assert in_shard("my question", 0, 1), "without shards any id will do"
    with pytest.raises(UserError, match="'my question' is not hexadecimal"):
        in_shard("my question", 0, 2)


@pytest.mark.parametrize(
    ("shard", "num_shards", "merging"), [(2, 2, False), (-1, 2, False), (0, 0, False), (0, 1, True)]
)
def test_shards_that_do_not_exist_are_refused(shard, num_shards, merging):
    with pytest.raises(UserError, match="shard"):
        check_shards(Config(shard=shard, num_shards=num_shards, merge=merging))


def test_finished_shards_become_one_run_in_the_order_of_the_questions():
    for shard in (2, 0, 1):
        finish_shard(shard)
    path = merge_all()
    kept = [row["question_id"] for row in read_jsonl(path / "kept.jsonl")]
    dropped = [row["question"]["id"] for row in read_jsonl(path / "dropped.jsonl")]
    assert sorted(kept + dropped) == sorted(IDS) and len(dropped) == 3
    assert kept == [id for id in IDS if id in kept] and dropped == [id for id in IDS if id in dropped]
    record = read_record(path)
    assert record["headline"] == {"num_kept": 197, "dropped": {"x": 3}, "cost": 1.5}
    assert set(record["inputs"]) == {"pool", "shard 0", "shard 1", "shard 2"}
    assert merge_all() == path
    assert merge("data", Config(merge=True, shard=2), {"pool": "in.jsonl"}, IDS, []) == path


def test_missing_and_foreign_shards_are_named(tmp_path):
    finish_shard(1)
    with open_run("data", replace(Config(), shard=2), {"pool": "in.jsonl"}):
        pass  # begun, not finished
    with pytest.raises(UserError, match=r"2 of 3 shards are not finished: 0 \(outputs/data/t-\w+\), 2 "):
        merge_all()
    finish_shard(0)
    finish_shard(2)
    (tmp_path / "in.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UserError, match="made from other inputs"):
        merge_all()


def test_headlines_add_up():
    assert added_up([{"a": 1, "b": {"x": 2}}, {"a": 2, "b": {"x": 1, "y": 1}, "c": "same"}, {"c": "same"}]) == {
        "a": 3,
        "b": {"x": 3, "y": 1},
        "c": "same",
    }
    assert added_up([{"c": "one", "d": True}, {"c": "other", "d": True}]) == {"d": True}
