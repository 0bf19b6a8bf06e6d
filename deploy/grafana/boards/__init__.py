"""What the dashboards show, one module each."""

from __future__ import annotations

from deploy.grafana.boards.graph import Board
from deploy.grafana.boards.ingestion import INGESTION
from deploy.grafana.boards.quality import QUALITY
from deploy.grafana.boards.service import SERVICE
from deploy.grafana.boards.storage import STORAGE

BOARDS: tuple[Board, ...] = (SERVICE, QUALITY, INGESTION, STORAGE)
