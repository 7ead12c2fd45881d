"""TF-IDF vectors of chunks, stored in the database, and the search over them.

A term's place in the vector is its hash, so no vocabulary is kept: 65,536 places, what two bytes can
name. A term weighs more the oftener it stands in the chunk and the fewer chunks of the whole corpus have
it. Vectors have length 1, so that the cosine of two is their dot product.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from .models import Chunk

PLACES = 2**16
TERM = np.dtype([("place", "<u2"), ("weight", "<f4")])

_counter = HashingVectorizer(n_features=PLACES, alternate_sign=False, norm=None, stop_words="english")


@dataclass(frozen=True)
class Match:
    chunk: Chunk
    similarity: float
    """Cosine of the angle to the query, from 0 (no common term) to 1."""


def term_counts(texts):
    """Return a sparse matrix, one row a text: how often each term stands in it."""
    # scikit-learn refuses to transform nothing.
    return (
        _counter.transform(texts).astype(np.float32) if texts else csr_matrix((0, PLACES), dtype=np.float32)
    )


def term_weights(*matrices):
    """Return the weight of each term, its inverse document frequency; a row of the matrices is a document."""
    rows = sum(matrix.shape[0] for matrix in matrices)
    having = sum(np.bincount(matrix.indices, minlength=PLACES) for matrix in matrices)
    return (np.log((1 + rows) / (1 + having)) + 1).astype(np.float32)


def vectors_of(texts, weights):
    """Return a sparse matrix, one row a text: its vector."""
    matrix = term_counts(texts)
    matrix.data = (1 + np.log(matrix.data)) * weights[matrix.indices]
    return normalize(matrix) if texts else matrix


def pack(matrix):
    """Return each row as bytes: six for each of its terms."""
    terms = np.empty(matrix.nnz, TERM)
    terms["place"], terms["weight"] = matrix.indices, matrix.data
    return [terms[start:end].tobytes() for start, end in pairwise(matrix.indptr)]


def unpack(packed):
    """Return the matrix whose rows were packed."""
    packed = [bytes(row) for row in packed]
    terms = np.frombuffer(b"".join(packed), TERM)
    row_ends = np.cumsum([0, *map(len, packed)]) // TERM.itemsize
    return csr_matrix((terms["weight"], terms["place"].astype(np.int32), row_ends), (len(packed), PLACES))


def nearest(query, limit):
    """Return the chunks that are most similar to the query, the most similar first, at most `limit`.

    Reads all vectors, which is fine up to some ten thousand chunks; beyond, use a vector index.
    """
    rows = list(Chunk.objects.order_by("pk").values_list("pk", "vector"))
    matrix = unpack(vector for _, vector in rows)
    similarities = (matrix @ vectors_of([query], term_weights(matrix)).T).toarray().ravel()
    best = [row for row in np.argsort(-similarities, kind="stable")[:limit] if similarities[row] > 0]
    chunks = Chunk.objects.select_related("document").prefetch_related("triples")
    found = chunks.in_bulk([rows[row][0] for row in best])
    return [Match(found[pk], float(similarities[row])) for row in best if (pk := rows[row][0]) in found]
