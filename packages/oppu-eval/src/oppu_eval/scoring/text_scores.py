"""How alike two texts are: ROUGE as in LaMP's scorer, and METEOR. Knows nothing of tasks or users.

ROUGE is that of ``rouge_score`` without stemming, to the last digit; its own table for ROUGE-L is too slow
for long texts.

METEOR is nltk's, with its first two stages, equal words and equal stems (Porter). The third, synonyms, needs
WordNet, which nltk downloads: it is off, on every machine, so that the same answers always have the same
score. Published values have it (and split words otherwise): they cannot be compared with these.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oppu_core.texts import script_words

TextScore = Callable[[str, str, str], float]  # (answer, gold, what a word is) -> from 0 to 1


def rouge_1(answer: str, gold: str, words: str) -> float:
    """The F-measure of common words, each counted as often as it is in both texts."""
    answer_words, gold_words = _words(answer, words), _words(gold, words)
    common = (Counter(answer_words) & Counter(gold_words)).total()
    return _f_measure(common, len(answer_words), len(gold_words))


def rouge_l(answer: str, gold: str, words: str) -> float:
    """The F-measure of the longest common subsequence of words."""
    answer_words, gold_words = _words(answer, words), _words(gold, words)
    return _f_measure(lcs_length(answer_words, gold_words), len(answer_words), len(gold_words))


def meteor(answer: str, gold: str, words: str) -> float:
    """METEOR (Lavie and Agarwal, 2007) without synonyms, case-folded; punctuation marks are words.

    A common word counts for the recall nine times as much as for the precision, and the more scattered the
    common words are, the less.
    """
    score, tokens = _meteor_scorer()
    of = script_words if words == "script" else tokens
    return float(score(of(gold), of(answer)))


TEXT_SCORES: Mapping[str, TextScore] = {"rouge_1": rouge_1, "rouge_l": rouge_l, "meteor": meteor}
TITLES: Mapping[str, str] = {
    "rouge_1": "ROUGE-1",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR (no synonyms)",
}


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence (Hyyrö, 2004).

    Bit i of `row` is 0 where the table's row rises from column i to i + 1.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & every
    return len(one) - row.bit_count()


def _f_measure(common: int, answered: int, wanted: int) -> float:
    """Precision and recall, combined in rouge_score's order of operations."""
    precision, recall = common / max(answered, 1), common / max(wanted, 1)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def _words(text: str, words: str) -> list[str]:
    from rouge_score.tokenize import tokenize

    return script_words(text) if words == "script" else list(tokenize(text, None))


class _NoSynonyms:
    """In place of WordNet."""

    def synsets(self, word: str) -> list[Any]:
        """None."""
        return []


@functools.cache
def _meteor_scorer() -> tuple[Callable[..., float], Callable[[str], list[str]]]:
    from nltk.stem.porter import PorterStemmer
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    stemmer = PorterStemmer()
    stemmer.stem = functools.lru_cache(100_000)(stemmer.stem)
    score = functools.partial(
        single_meteor_score, preprocess=str.casefold, stemmer=stemmer, wordnet=_NoSynonyms()
    )
    return score, wordpunct_tokenize
