import json
from pathlib import Path

import pytest

from core.config import UserError, load
from core.types import question_from_row, read_jsonl
from data.collect import CollectConfig, main
from data.sources import DATASETS, SOURCES, Source

FAMILIES = [key for key, source in SOURCES.items() if isinstance(source, Source)]


@pytest.mark.slow
@pytest.mark.parametrize("source_id", FAMILIES)
def test_the_same_seed_gives_the_same_questions_and_another_seed_others(source_id):
    source = SOURCES[source_id]
    first, again, other = (list(source.questions(seed, 30)) for seed in (1, 1, 2))
    assert first == again
    # small families repeat themselves by chance; neighbouring seeds must not share a whole stretch of items
    assert len({q.id for q in first} & {q.id for q in other}) <= 8
    assert [q.text for q in first[1:]] != [q.text for q in other[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize("source_id", FAMILIES)
def test_questions_are_checkable_and_fit_in_json(source_id):
    source = SOURCES[source_id]
    for question in source.questions(4, 10):
        assert question_from_row(json.loads(json.dumps(question.__dict__))) == question
        assert question.answer and question.source == source_id and question.domain == source_id.split("/")[-1]
        assert set(question.metadata) == set(source.keep)
        if source.answer_type == "integer":
            assert str(int(question.answer)) == question.answer


@pytest.mark.slow
def test_smaller_size_is_a_prefix_of_a_larger_one():
    source = SOURCES["reasoning_gym/chain_sum"]
    assert list(source.questions(1, 5)) == list(source.questions(1, 20))[:5]


@pytest.mark.slow
def test_parameters_override_defaults_and_wrong_ones_are_named():
    source = SOURCES["reasoning_gym/chain_sum"]
    for question in source.questions(1, 20, {"min_terms": 3, "max_terms": 3}):
        assert len(question.metadata["expression"].split()) == 5
    with pytest.raises(UserError, match="chain_sum.*max_term"):
        list(source.questions(1, 1, {"max_term": 3}))
    with pytest.raises(UserError, match="chain_sum"):
        list(source.questions(1, 1, {"min_terms": 9}))


@pytest.mark.slow
def test_collect_writes_questions_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "name: t\nseed: 1\nsources:\n"
        "  reasoning_gym/gcd: {size: 6, params: {max_value: 9}}\n"
        "  reasoning_gym/lcm: {size: 5}\n"
    )
    config = load(CollectConfig, ["c.yaml"])
    folder = main(config)
    written = (folder / "questions.jsonl").read_bytes()
    questions = [question_from_row(row) for row in read_jsonl(folder / "questions.jsonl")]
    assert {q.domain for q in questions} == {"gcd", "lcm"} and len(questions) <= 11
    assert max(n for q in questions if q.domain == "gcd" for n in q.metadata["numbers"]) <= 9
    assert main(config) == folder and (folder / "questions.jsonl").read_bytes() == written


def test_an_unknown_source_is_one_line():
    with pytest.raises(UserError, match="'nowhere' is unknown; known: reasoning_gym/"):
        main(load(CollectConfig, ["name=t", "seed=1", "sources={nowhere: {size: 1}}"]))
    with pytest.raises(UserError, match="gcd: its questions are generated, so it needs size"):
        main(load(CollectConfig, ["name=t", "seed=1", "sources={reasoning_gym/gcd: {}}"]))


def test_the_table_of_datasets_adds_up_to_the_paper():
    assert [d.key for d in DATASETS] == [
        "MATH", "OlympicArena", "TheoremQA", "NuminaMATH", "OmniMath", "SciEval", "OlympiadBench", "JEEBench",
        "AGIEval", "s1-prob", "GPQA", "xword", "USACO", "s1-teasers", "LiveCodeBench", "AIME",
    ]  # fmt: skip
    assert sum(d.published for d in DATASETS) == 59_029  # the paper's total
    assert all(d.licence and d.access and d.note or d.expected == d.published for d in DATASETS)
    assert all(d.revision is None or len(d.revision) == 40 for d in DATASETS)


@pytest.mark.parametrize("name", ["collect-s1-59k", "collect-as-published", "collect-offline"])
def test_checked_in_configs_name_known_sources_and_options(name):
    config = load(CollectConfig, [f"configs/data/{name}.yaml"])
    assert all(set(r.params) <= set(SOURCES[key].params) for key, r in config.sources.items())
    if name != "collect-offline":
        assert list(config.sources) == [d.key for d in DATASETS]
    if name == "collect-as-published":
        assert [r.expected for r in config.sources.values()] == [d.published for d in DATASETS]


@pytest.mark.parametrize(
    ("key", "file", "subset", "reads"),
    [
        ("MATH", "MATH/train.jsonl", "train", True),
        ("MATH", "MATH/test.jsonl", "test", False),  # MATH500
        ("OlympicArena", "OlympicArena/CS/val-00000-of-00001.parquet", "CS", True),
        ("OlympiadBench", "OlympiadBench/TP_TO_maths_en_COMP/train/0000.parquet", "TP_TO_maths_en_COMP", True),
        ("SciEval", "SciEval/scieval-dev.json", "scieval-dev", True),
        ("AGIEval", "AGIEval/lsat-ar.sample60.jsonl", "lsat_ar", True),
        ("AGIEval", "AGIEval/math.jsonl.gz", "math", True),
        ("GPQA", "GPQA/gpqa_diamond.csv", "gpqa_diamond", True),
        ("LiveCodeBench", "LiveCodeBench/test2.jsonl", "test2", True),
        ("AIME", "AIME/latest.csv", "latest", True),
    ],
)
def test_a_local_file_says_its_subset_and_split(key, file, subset, reads):
    assert (SOURCES[key].subset_of(Path(file)), SOURCES[key].reads(Path(file))) == (subset, reads)
