"""PostgreSQL with pgvector and Redis from pip-installed binaries: the default on a laptop, where nothing is installed.

`embedded_servers` starts both under a data directory, or joins those that another process has started there. It knows
nothing of what is stored. With RECSVC_DATABASE_URL and RECSVC_REDIS_URL set, it is not used at all.
"""

from recsvc.embedded.process import EmbeddedServerError
from recsvc.embedded.shared import EmbeddedUrls, embedded_servers, stop_servers

__all__ = ["EmbeddedServerError", "EmbeddedUrls", "embedded_servers", "stop_servers"]
