"""Data sets: files that people have, and a generator of believable ones, as streams of domain objects.

Pure file input: no server, no database and no settings are known here.
"""

from recsvc.datasets.formats import FORMATS, open_dataset
from recsvc.datasets.seed import seed_dataset
from recsvc.datasets.source import Dataset, DatasetError

__all__ = ["FORMATS", "Dataset", "DatasetError", "open_dataset", "seed_dataset"]
