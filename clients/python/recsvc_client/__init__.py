"""A thin, pleasant Python client of recsvc: plain values in, messages out, errors that say what is wrong."""

from recsvc_client.client import Client
from recsvc_client.errors import RecsvcError

__all__ = ["Client", "RecsvcError"]
