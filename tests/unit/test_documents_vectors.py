import numpy as np
import pytest

from testproject.documents import vectors

TEXTS = ["redis stores queues in memory", "cats sleep on warm stones", "warm stones, stones, stones"]


def test_vectors_have_length_one_and_similar_texts_a_larger_cosine():
    matrix = vectors.vectors_of(TEXTS, vectors.term_weights(vectors.term_counts(TEXTS)))

    cosines = (matrix @ matrix.T).toarray()

    assert np.diag(cosines) == pytest.approx(1)
    assert cosines[1, 2] > 0.3
    assert cosines[0, 1] == cosines[0, 2] == 0


def test_a_rare_term_weighs_more_than_a_common_one():
    weights = vectors.term_weights(vectors.term_counts(TEXTS))
    [rare], [common] = (vectors.term_counts([term]).indices for term in ("cats", "stones"))

    assert weights[rare] > weights[common] > 1


def test_term_weights_count_the_rows_of_all_matrices():
    together = vectors.term_weights(vectors.term_counts(TEXTS))

    apart = vectors.term_weights(vectors.term_counts(TEXTS[:1]), vectors.term_counts(TEXTS[1:]))

    assert np.array_equal(together, apart)


def test_packed_vectors_come_back_as_they_were():
    texts = [*TEXTS, "the of and"]
    matrix = vectors.vectors_of(texts, vectors.term_weights(vectors.term_counts(texts)))

    packed = vectors.pack(matrix)

    # PostgreSQL returns memory views.
    assert (vectors.unpack(map(memoryview, packed)) != matrix).nnz == 0
    assert len(packed[0]) == 4 * 6  # "in" is a stop word
    assert packed[3] == b""


def test_no_texts_give_an_empty_matrix():
    matrix = vectors.vectors_of([], vectors.term_weights(vectors.term_counts([])))

    assert matrix.shape == (0, vectors.PLACES)
    assert vectors.pack(matrix) == []
    assert vectors.unpack([]).shape == (0, vectors.PLACES)
