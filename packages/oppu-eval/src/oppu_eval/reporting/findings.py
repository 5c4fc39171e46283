"""What the rows say, in sentences: computed, and as honest when the answer is no."""

import re
from collections.abc import Callable, Mapping

from oppu_core.errors import ConfigError
from oppu_core.prompting.methods import Method, parse_method

from oppu_eval.reporting.figures import personal_pair
from oppu_eval.scoring.evaluate import NON_PERSONALIZED, split_model
from oppu_eval.scoring.results import ScoreRow, TaskResults


def finding(one: TaskResults) -> str:
    """The key finding of one task: adapter against the same prompt without it, and simple references."""
    return " ".join(filter(None, finding_parts(one)))


def finding_parts(one: TaskResults) -> tuple[str, str]:
    """The finding in two: whether the adapters help, and how far controls and simple rules get that do not
    reach them."""
    rows = one.primary_rows()
    topic = re.sub(r"^personalized ", "", one.title, flags=re.IGNORECASE)
    topic = topic if topic[:2].isupper() else topic[:1].lower() + topic[1:]
    pair = personal_pair(one)
    if pair is None:
        return f"On {topic}, no personal adapter was compared with the same prompt without it.", ""
    row, base = rows[pair[0]], rows[pair[1]]
    show = formats(one.kind)
    say = {
        "classification": "On {}, personal adapters answer as the user did in {} of the queries, "
        "against {} {}",
        "rating": "On {}, personal adapters miss the user’s rating by {} points on average, against {} {}",
        "generation": "On {}, texts by personal adapters share words with the user’s own to a degree of {} "
        f"({one.primary_title}), against {{}} {{}}",
    }[one.kind]
    without = (
        "without personalization" if split_model(pair[1])[0] == NON_PERSONALIZED else "without the adapter"
    )
    ahead, behind = ("", "") if row.other_queries else _references(rows, row, show)
    sentence = ahead + say.format(topic, show(row.value), show(base.value), without)
    sentence += f" ({_difference(row, one.kind)}). "
    sentence += _verdict(row.delta_same_prompt_ci95)
    if row.users != base.users:
        sentence += " The difference is taken over the users whom both have answered."
    return sentence, (_controls(rows, pair[0], show) + behind).strip()


def _controls(rows: Mapping[str, ScoreRow], method: str, show: Callable[[float], str]) -> str:
    """How far the same prompt gets through adapters that are not the user's own."""
    phrases = {
        "stranger": "another user’s adapter reaches {}",
        "pooled": "one adapter for all test users reaches {}",
    }
    said = [
        phrase.format(show(rows[name].value))
        for whose, phrase in phrases.items()
        if (name := method.replace("oppu_", f"{whose}_", 1)) in rows
    ]
    return f" As controls, {' and '.join(said)}." if said else ""


def formats(kind: str) -> Callable[[float], str]:
    """How values of a kind of task are written in sentences."""
    return (lambda value: f"{100 * value:.0f}\u00a0%") if kind == "classification" else (lambda v: f"{v:.2f}")


def _difference(row: ScoreRow, kind: str) -> str:
    """The signed difference and its interval; positive is better, as in the table."""

    def signed(value: float) -> str:
        text = f"{100 * abs(value):.0f}" if kind == "classification" else f"{abs(value):.2f}"
        return text if not text.strip("0.") else ("+" if value > 0 else "−") + text

    unit = " points" if kind == "classification" else ""
    better = ", positive is better" if kind == "rating" else ""
    text = f"difference {signed(row.delta_same_prompt or 0.0)}{unit}{better}"
    interval = row.delta_same_prompt_ci95
    if interval is not None:
        text += f", 95\u00a0% interval {signed(interval[0])} to {signed(interval[1])}"
    return text


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "From a single user nothing follows for others."
    if interval[0] > 0:
        return "The interval lies above zero: the adapters help in this run."
    if interval[1] < 0:
        return "The interval lies below zero: the adapters do harm in this run."
    return "The interval includes zero: this run does not show that the adapters help."


def _references(rows: Mapping[str, ScoreRow], row: ScoreRow, show: Callable[[float], str]) -> tuple[str, str]:
    """How far simple rules get: what stands first, as they do as well as the adapters or better, and what
    stands last."""
    phrases = {
        "user_majority": "Always repeating the user’s most frequent answer",
        "user_classifier": "Naive Bayes on the words of the user’s own history",
        "copy_label": "Copying the answer of the user’s most similar item",
        "copy_input": "Copying the input",
        "copy_retrieved": "Copying the user’s most similar text",
        "oracle": "The best possible answer",
    }
    sign = 1 if row.higher_is_better else -1
    first = last = ""
    for method, phrase in phrases.items():
        if method not in rows:
            continue
        value = rows[method].value
        if method != "oracle" and sign * (value - row.value) >= 0:
            first += f"{phrase} does as well as personal adapters or better: {show(value)}. "
        else:
            last += f" {phrase} reaches {show(value)}."
    return first, last


def describe_method(method: str) -> str:
    """A method in plain words, for readers who have never heard of retrieval or adapters."""
    method, model = split_model(method)
    if model:
        return f"{describe_method(method)} Answered by {model[2:-1]} in lm-evaluation-harness."
    fixed = {
        "global_majority": "Reference: always the answer that other people give most often.",
        "user_majority": "Reference: always the answer that this user has given most often.",
        "user_classifier": "Reference: naive Bayes on the words of this user’s history; no language model.",
        "copy_label": "Reference: the user’s own answer to the past item most like the question.",
        "copy_input": "Reference: the input text itself, returned as the answer.",
        "copy_retrieved": "Reference: what the user wrote in the past item most like the question.",
        "oracle": "Reference: the best answer that can be known; the sample data were made with it.",
        "non_personalized": "The model sees the question only and knows nothing about the user.",
    }
    if method in fixed:
        return fixed[method]
    try:
        parsed = parse_method(method)
    except ConfigError:
        return "A method of this run."
    adapter = {
        None: "",
        "own": " A small personal part, trained on this user’s history alone, is added to the model.",
        "pooled": " Control: one part, trained on the histories of all test users together, is added.",
        "stranger": " Control: the part that was trained on another user’s history is added.",
    }
    return describe_prompt(parsed) + adapter[parsed.adapter]


def describe_prompt(method: Method) -> str:
    """What the model sees, in plain words."""
    count = method.k
    items = "one past item" if count == 1 else f"{count} past items"
    latest = "the latest item" if count == 1 else f"the {count} latest items"
    return {
        "random": f"The model also sees {items} of other people, drawn at random.",
        "rag": f"The model also sees {items} of the user, chosen for likeness to the question.",
        "dense": f"The model also sees {items} of the user, chosen by a sentence encoder for likeness in "
        "meaning to the question.",
        "recent": f"The model also sees {latest} of the user.",
        "pag": "The model also sees a short text that describes the user"
        + (f", and {items} of the user." if count else "."),
        "base": "The model sees the question only.",
    }[method.kind]
