"""The relevance of a user's past items to their queries: the cosine of sentence features (OPPU 4.4).

Sentence features come from the base itself, from an encoder such as DeBERTa-v3, or from TF-IDF. Knows
nothing of how the relevance is used.

sentence-transformers (6.2.0) would be the obvious tool for encoders. It makes the same vectors, but it
initializes missing weights at random, accepts encoders whose tokenizer does not know the words, and follows
an encoder's own pooling, which would change results; and the base needs the pooling here anyway.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from oppu_core.data.types import Query, User
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task

from oppu_eval.scoring.metrics import Array

if TYPE_CHECKING:
    from oppu_core.modeling.base import Base

Features = Callable[[Sequence[str]], Array]
"""Texts to vectors [I, d] of length one; zeros for a text without content."""

BATCH = 16
WORDS = 10_000  # of TF-IDF: a history of 1,000 items takes 80 MB
DEFAULT_LIMIT = 512  # tokens, for encoders that do not state their limit
_TOKENIZER = "it needs the model's own tokenizer.json and tokenizer_config.json beside the weights."


def sentence_features(
    encoder: str, base: "Callable[[], Base]", texts: Sequence[str], device: str = "auto"
) -> tuple[Features, str]:
    """Sentence features, and a sentence that describes them.

    Args:
        encoder: ``base`` (mean-pooled last hidden states of the base), ``tfidf``, or the folder or hub id of
            an encoder, whose last hidden states are mean-pooled.
        base: Loads the base; only called for ``base``.
        texts: The texts whose words TF-IDF counts.
        device: The device of an encoder; the base has its own.

    Raises:
        ModelError: the encoder cannot be used.
        DataError: there is no word in `texts` that TF-IDF could count.
    """
    if encoder == "tfidf":
        return _tfidf(texts)
    if encoder == "base":
        loaded = base()
        tokenizer, model = (
            loaded.tokenizer,
            loaded.model.base_model,
        )  # without the head: hidden states are wanted

        def base_ids(text: str) -> list[int]:
            return tokenizer.prompt_ids(text)[: tokenizer.context]

        return _pooled(model, base_ids, tokenizer.pad_id), _told(f"the base {loaded.name}", model)
    model, tokenizer = _load_encoder(encoder, device)
    from oppu_core.modeling.encoders import unusable

    known = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    limit = min((n for n in known if isinstance(n, int) and 0 < n < 10**6), default=DEFAULT_LIMIT)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, truncation=True, max_length=limit)["input_ids"])

    special = set(tokenizer.all_special_ids)
    # Some kinds of tokenizer load without an error, but empty, if their files are missing.
    if any(text.strip() for text in texts) and not any(set(ids(text)) - special for text in texts):
        raise unusable(encoder, "its tokenizer knows no word of these texts; " + _TOKENIZER)
    return _pooled(model, ids, tokenizer.pad_token_id or 0), _told(f"the encoder {encoder}", model)


def relevance(task: Task, user: User, queries: Sequence[Query], features: Features) -> Array:
    """The relevance of each item of the training history: its mean cosine with the queries.

    Args:
        task: Items are compared in its history template, queries by its input fields.
        user: The user, with I training items.
        queries: The queries.
        features: Sentence features.

    Returns:
        [I] values from -1 to 1.

    Raises:
        DataError: there is no query to compare with.
    """
    if not queries:
        raise DataError(f"User {user.user_id!r} has no query that the history could be relevant to.")
    items = [task.history_line(item.fields) for item in user.training_history]
    asked = [" ".join(query.fields[name] for name in task.input_fields) for query in queries]
    vectors = features([*items, *asked])
    relevant: Array = vectors[: len(items)] @ vectors[len(items) :].mean(axis=0)
    return relevant


def _told(whose: str, model: Any) -> str:
    return f"Sentence features: mean-pooled last hidden states of {whose} ({_width(model)} numbers)."


def _width(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)


def _tfidf(texts: Sequence[str]) -> tuple[Features, str]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=WORDS)
    try:
        vectorizer.fit(texts)
    except ValueError as error:  # an empty vocabulary
        raise DataError("TF-IDF finds no word in these texts; choose another encoder.") from error

    def features(texts: Sequence[str]) -> Array:
        vectors: Array = vectorizer.transform(texts).toarray()
        return vectors

    size = len(vectorizer.vocabulary_)
    return features, f"Sentence features: TF-IDF of the {size:,} most frequent words in these texts."


def _load_encoder(encoder: str, device: str) -> tuple[Any, Any]:
    """Load an encoder and its tokenizer. Pickled weights and a model's own code are never loaded."""
    import torch
    from oppu_core.modeling.base import pick_device
    from oppu_core.modeling.encoders import check_whole, encoder_folder, unusable
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    target = pick_device(device)
    folder = encoder_folder(encoder, "'base', 'tfidf', ")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise unusable(encoder, f"it has no tokenizer that can be loaded; {_TOKENIZER}") from error
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # no list of unneeded weights of heads; missing ones are checked below
    try:
        model, found = AutoModel.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise unusable(encoder, f"{type(error).__name__}: {error}") from error
    finally:
        logging.set_verbosity(level)
    check_whole(encoder, found)
    if model.config.is_encoder_decoder:
        raise unusable(encoder, "it is an encoder with a decoder; use one that only encodes.")
    return model.to(target).eval(), tokenizer


def _pooled(model: Any, ids_of: Callable[[str], list[int]], pad_id: int) -> Features:
    """Features: the mean of a model's last hidden states over a text's tokens."""
    import torch
    from oppu_core.modeling.generation import plan_batches

    def features(texts: Sequence[str]) -> Array:
        rows = [ids_of(text) for text in texts]
        vectors_Id = np.zeros((len(rows), _width(model)))
        filled = [index for index, row in enumerate(rows) if row]
        for places in plan_batches([len(rows[index]) for index in filled], BATCH):
            batch = [filled[place] for place in places]
            width = max(len(rows[index]) for index in batch)
            ids_BT = torch.full((len(batch), width), pad_id)
            mask_BT = torch.zeros_like(ids_BT)
            for b, index in enumerate(batch):
                ids_BT[b, : len(rows[index])] = torch.tensor(rows[index])
                mask_BT[b, : len(rows[index])] = 1
            mask_BT = mask_BT.to(model.device)
            with torch.inference_mode():
                output = model(input_ids=ids_BT.to(model.device), attention_mask=mask_BT)
            hidden_BTd = output.last_hidden_state.float() * mask_BT[:, :, None]
            mean_Bd = hidden_BTd.sum(1) / mask_BT.sum(1, keepdim=True)
            vectors_Id[batch] = torch.nn.functional.normalize(mean_Bd.double(), dim=1).cpu().numpy()
        return vectors_Id

    return features
