"""What makes right answers look wrong is said beforehand: golds, scripts, tokenizers, the answer's bound."""

import dataclasses

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder, answer_tokens
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.cautions import scoring_warnings, tokenizer_warnings, version_warnings
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from transformers import BertTokenizer

MOVIES, NEWS, STARS = TASKS["lamp_2m"], TASKS["lamp_4"], TASKS["lamp_3"]


def asked(*golds: str | None) -> list[User]:
    queries = tuple(Query(str(n), {"text": "x"}, gold, 0) for n, gold in enumerate(golds))
    return [User("u", "test", (), queries)]


def test_golds_outside_the_labels_are_counted() -> None:
    (warning,) = scoring_warnings(MOVIES, asked("comedy", "Comedy", "true\u00a0story", None, "film", "film"))
    assert warning.startswith("3 of 5 golds are none of the task's labels ('Comedy', 'film')")
    assert "no answer to them can be right" in warning
    assert not scoring_warnings(MOVIES, asked("comedy", " sci-fi "))
    (warning,) = scoring_warnings(STARS, asked("5", "4.0", "7"))
    assert warning.startswith("1 of 3 golds") and "scored by distance" in warning


@pytest.mark.parametrize(
    ("words", "advice"), [("official", "--words script"), ("script", "stands before it")]
)
def test_golds_that_the_official_scorer_does_not_see_are_counted(words: str, advice: str) -> None:
    (warning,) = scoring_warnings(
        dataclasses.replace(NEWS, words=words), asked("新桥通车", "A bridge", "Мост")
    )
    assert warning.startswith("2 of 3 golds are mostly in letters that LaMP's ROUGE does not see")
    assert advice in warning
    assert not scoring_warnings(NEWS, asked("A bridge", "La forêt"))


def uncased() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "true", "story", "drama", "sci", "-", "fi"]
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(words)}, do_lower_case=True)
    tokenizer.eos_token = "[SEP]"
    return Tokenizer(tokenizer, 512)


def genres(*labels: str, **more: int) -> Task:
    return dataclasses.replace(MOVIES, labels=labels, **more)


def test_labels_that_a_tokenizer_cannot_spell_are_told() -> None:
    tokenizer = uncased()
    assert not tokenizer_warnings(genres("true story", "drama"), tokenizer)
    (warning,) = tokenizer_warnings(genres("True Story", "drama", "zombies"), tokenizer)
    assert "cannot write 2 of 3 labels (e.g. 'True Story' becomes 'true story')" in warning


def test_the_shipped_base_spells_every_label_of_lamp() -> None:
    tokenizer = base_tokenizer("tiny")
    for task in TASKS.values():
        assert not tokenizer_warnings(task, tokenizer)


def test_the_answers_bound_follows_the_labels() -> None:
    tokenizer = base_tokenizer("tiny")
    long = "complaint about a late delivery or a missing item in an order of kitchen goods"
    task = genres(long, "drama", max_answer_tokens=3)
    needed = len(tokenizer.answer_ids(long))
    assert needed > 16
    assert answer_tokens(task, tokenizer) == needed
    assert answer_tokens(genres("drama", "comedy", max_answer_tokens=50), tokenizer) == 50
    (warning,) = tokenizer_warnings(task, tokenizer)
    assert f"Answers may have {needed} tokens, not 3" in warning
    # Prompts leave room for it.
    builder = PromptBuilder(task, tokenizer.leaving(tokenizer.context - 400), {})
    item = HistoryItem("1", {"description": "word " * 2000, "tag": "drama"})
    user = User("u", "test", (item,), (Query("q", {"description": "word " * 2000}, None, 1),))
    prompt = builder.query_prompt(parse_method("non_personalized"), user, user.queries[0], "")
    assert len(tokenizer.prompt_ids(prompt.text)) <= 400 - needed


def test_other_versions_than_at_the_start_are_said() -> None:
    then = {"python": "3.11.7", "torch": "2.15.0", "peft": "0.21.2"}
    assert not version_warnings(then, then)
    assert not version_warnings({}, then)
    (warning,) = version_warnings(then, {**then, "torch": "2.16.0"})
    assert "(torch 2.15.0 then, 2.16.0 now)" in warning
