"""Names for the arrays that ranking, evaluation and training pass, so that a signature says what is in them.

Shapes stand in the docstring of the function that takes them; an array with a leading axis of users works wherever
the docstring says `(…, n)`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Scores: TypeAlias = NDArray[np.floating]
"""Relevance, higher is better."""

Vectors: TypeAlias = NDArray[np.floating]
"""One vector per row."""

Positions: TypeAlias = NDArray[np.int64]
"""Positions in the caller's array of candidates, best first: a ranking."""

Codes: TypeAlias = NDArray[np.integer]
"""Users or items as row or column numbers of a matrix."""

Mask: TypeAlias = NDArray[np.bool_]

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]

Interactions: TypeAlias = sparse.csr_matrix[np.float32]
"""(users, items): the signal of each user about each item; absent means nothing is known."""
