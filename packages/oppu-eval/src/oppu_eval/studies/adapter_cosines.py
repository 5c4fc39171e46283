"""The similarity of users' adapters (OPPU Figure 7, Appendix F), and whether it reflects similar habits.

The paper averages the cosines of two users' tensors, tensor by tensor. For LoRA that depends on more than
what an adapter does: (B M, M⁻¹ A) is the same update BA for every invertible M. So the cosines of the
updates are computed, too. A zero tensor has no direction: its cosines are NaN, and are left out of means.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task

from oppu_eval.reporting.habits import own_texts
from oppu_eval.scoring.metrics import Array

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]

_A, _B = ".lora_A.weight", ".lora_B.weight"
_CHUNK = 1_000_000  # numbers permuted at once
_TIE = 1e-9  # differences smaller than this are rounding


def tensor_cosines(states: Sequence[State]) -> dict[str, Array]:
    """The cosine of every two users' flattened tensors, as in the paper's pseudo-code (Appendix F).

    Args:
        states: The users' adapters, as :meth:`oppu_core.storage.store.Store.load` returns them.

    Returns:
        {tensor name: [U, U]}, 1 on the diagonal; NaN where one of the two is zero or absent.

    Raises:
        DataError: a tensor has different shapes in two adapters.
    """
    return {name: _cosines(_gram(_stacked(states, name))) for name in _names(states)}


def update_cosines(states: Sequence[State]) -> dict[str, Array]:
    """The cosine of every two users' LoRA updates BA, without forming them.

    By <B₁A₁, B₂A₂> = tr((B₁ᵀB₂)(A₂A₁ᵀ)) = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), whose factors are of the size of the rank.

    Args:
        states: As for :func:`tensor_cosines`.

    Returns:
        {projection: [U, U]}, 1 on the diagonal, NaN where one of two is zero or absent; empty without LoRA.

    Raises:
        DataError: a tensor has different shapes in two adapters.
    """
    result = {}
    for name in _names(states):
        projection = name.removesuffix(_A)
        if projection == name:
            continue
        A_Urd, B_Udr = _stacked(states, name), _stacked(states, projection + _B)
        users, rank = A_Urd.shape[:2]
        inner = _gram(A_Urd.reshape(users * rank, -1)) * _gram(B_Udr.swapaxes(1, 2).reshape(users * rank, -1))
        result[projection] = _cosines(inner.reshape(users, rank, users, rank).sum(axis=(1, 3)))
    return result


def average(cosines: Mapping[str, Array], containing: str = "") -> Array:
    """The mean [U, U] over the tensors whose names contain a text, e.g. ``lora_A``; by default over all.

    Unlike in the paper's pseudo-code, NaNs are left out of the mean; if all are NaN, so is the mean.

    Raises:
        DataError: no tensor has such a name.
    """
    chosen = [values for name, values in cosines.items() if containing in name]
    if not chosen:
        raise DataError(
            f"No tensor to average: of {len(cosines)} names, none contains {containing!r} "
            f"(first: {next(iter(cosines), 'none')}). Was the adapter trained with another PEFT method?"
        )
    stack = np.stack(chosen)
    known = np.count_nonzero(~np.isnan(stack), axis=0)
    unknown = np.full(known.shape, np.nan)
    mean: Array = np.divide(np.nansum(stack, axis=0), known, out=unknown, where=known > 0)
    return mean


def cluster_order(similarity: Array) -> tuple[list[int], Array]:
    """An order of the users that puts similar ones side by side.

    Average linkage on 1 - similarity with optimal leaf ordering (Bar-Joseph et al. 2001). NaN is lowest.

    Args:
        similarity: Symmetric [U, U].

    Returns:
        The order, and scipy's linkage [U - 1, 4].
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    users = len(similarity)
    if users < 2:
        return list(range(users)), np.empty((0, 4))
    distance = 1 - (similarity + similarity.T) / 2
    distance = np.maximum(np.nan_to_num(distance, nan=np.nanmax(distance, initial=0)), 0)
    tree: Array = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [int(user) for user in leaves_list(tree)], tree


def mantel(
    one: Array, other: Array, rng: np.random.Generator, permutations: int = 9999
) -> tuple[float, float]:
    """Test whether two similarity matrices of the same users are correlated (Mantel 1967).

    Pairs of users are not independent, users are: the null hypothesis is that the users of one matrix can be
    permuted. Users with NaNs are left out, those with most first, until no NaN is left.

    Args:
        one: Symmetric [U, U].
        other: Symmetric [U, U], the same users in the same order.
        rng: See :func:`oppu_eval.scoring.significance.generator`.
        permutations: How many times to permute the users of `other`.

    Returns:
        Pearson's r between the upper triangles, and its two-sided p-value (hits + 1) / (permutations + 1);
        (NaN, 1.0) if one of the two is constant, as with fewer than three users.
    """
    kept = _complete(one + other)
    one, other = one[np.ix_(kept, kept)], other[np.ix_(kept, kept)]
    first, second = np.triu_indices(len(kept), 1)
    x, y = (_standardized(matrix[first, second]) for matrix in (one, other))
    if x is None or y is None:
        return float("nan"), 1.0
    r = float(x @ y)
    y_UU = np.zeros_like(other)
    y_UU[first, second] = y_UU[second, first] = y  # permuting users changes neither mean nor spread
    hits = 0
    size = max(1, _CHUNK // len(first))
    for start in range(0, permutations, size):
        chunk = min(size, permutations - start)
        users_RU = rng.permuted(np.tile(np.arange(len(kept)), (chunk, 1)), axis=1)
        r_R = y_UU[users_RU[:, first], users_RU[:, second]] @ x
        hits += int(np.count_nonzero(np.abs(r_R) >= abs(r) - _TIE))
    return float(np.clip(r, -1, 1)), (hits + 1) / (permutations + 1)


def user_interval(values: Array, rng: np.random.Generator, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean over pairs of users, resampling users (not pairs).

    A user who is drawn twice forms no pair with themselves. NaNs and resamples without pairs are left out.

    Args:
        values: Symmetric [U, U]; the diagonal is not read.
        rng: See :func:`oppu_eval.scoring.significance.generator`.
        resamples: How many times to draw U users with replacement.

    Returns:
        (low, high); NaN with fewer than three users.
    """
    known = ~np.isnan(values)
    np.fill_diagonal(known, False)
    some = known.any(axis=1)
    values, known = values[np.ix_(some, some)], known[np.ix_(some, some)]
    users = len(values)
    if users < 3:
        return float("nan"), float("nan")
    drawn_RU = rng.multinomial(users, np.full(users, 1 / users), size=resamples).astype(np.float64)
    sums_R, pairs_R = (
        np.einsum("ru,uv,rv->r", drawn_RU, matrix, drawn_RU, optimize=True)
        for matrix in (np.where(known, values, 0.0), known.astype(np.float64))
    )
    low, high = np.percentile(sums_R[pairs_R > 0] / pairs_R[pairs_R > 0], (2.5, 97.5))
    return float(low), float(high)


def habit_likeness(task: Task, users: Sequence[User]) -> tuple[Array, str]:
    """How similar users are, measured by the history that personal training may see.

    If histories hold labels: the cosine of the users' shares of the labels. Else the cosine of TF-IDF vectors
    of character n-grams of the users' own texts (a user is a document).

    Returns:
        [U, U], 1 on the diagonal, NaN for users without a history; and a phrase that describes the measure.
    """
    of_users = [own_texts(task, user) for user in users]
    if task.labelled_history:
        labels = sorted({answer for own in of_users for answer in own})
        shares_UL = np.array([[own.count(label) for label in labels] for own in of_users], dtype=np.float64)
        return _cosines(_gram(shares_UL)), f"cosine between the users' shares of each {task.output_field}"
    from sklearn.feature_extraction.text import TfidfVectorizer

    phrase = f"cosine between the users' own texts ({task.text_field}; TF-IDF of 3 to 5 characters)"
    texts = ["\n".join(own) for own in of_users]
    if not any(texts):
        return np.full((len(users), len(users)), np.nan), phrase
    vectors_Uf = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    return _cosines((vectors_Uf @ vectors_Uf.T).toarray()), phrase


def _names(states: Sequence[State]) -> list[str]:
    """The names of all tensors, in order of first appearance."""
    return list(dict.fromkeys(name for state in states for name in state))


def _stacked(states: Sequence[State], name: str) -> Array:
    """A tensor of every user [U, ...]; zeros if a user lacks it."""
    shapes = {tuple(state[name].shape) for state in states if name in state}
    if len(shapes) != 1:
        raise DataError(
            f"The users' tensors {name} cannot be compared: shapes {sorted(shapes) or 'missing'}. "
            "Compare adapters that were trained with the same settings."
        )
    import torch

    zeros = torch.zeros(shapes.pop(), dtype=torch.float64)
    tensors = [state[name].detach().to("cpu", torch.float64) if name in state else zeros for state in states]
    return torch.stack(tensors).numpy()


def _gram(vectors: Array) -> Array:
    """The inner products of all pairs of rows, each flattened."""
    flat = vectors.reshape(len(vectors), -1)
    return flat @ flat.T


def _cosines(gram: Array) -> Array:
    """Cosines from inner products; 1 on the diagonal, NaN where a vector is zero."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    norms[norms == 0] = np.nan
    cosines: Array = np.clip(gram / norms[:, None] / norms, -1, 1)
    np.fill_diagonal(cosines, np.where(np.isnan(norms), np.nan, 1.0))
    return cosines


def _complete(matrix: Array) -> list[int]:
    """Users of whom every pair is known."""
    unknown = np.isnan(matrix)
    np.fill_diagonal(unknown, False)
    kept = list(range(len(matrix)))
    while (missing := unknown[np.ix_(kept, kept)].sum(axis=1)).any():
        del kept[int(missing.argmax())]
    return kept


def _standardized(values: Array) -> Array | None:
    """The values scaled to mean 0 and length 1; None if they are all equal."""
    if len(values) == 0 or np.ptp(values) <= _TIE:
        return None
    centred = values - values.mean()
    result: Array = centred / np.linalg.norm(centred)
    return result
