"""Is it in order, and if not, why, and what is to be done? What `jobs_doctor` says.

Each check is one function. None of them changes anything, and none raises: a check that is stopped by a
fault tells that fault.
"""

from .examination import examine
from .findings import Finding

__all__ = ["Finding", "examine"]
