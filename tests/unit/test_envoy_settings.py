"""What may be set of Envoy, and what the rendered configuration makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deploy.envoy.render import EnvoySettings, render

_ROOT = Path(__file__).parents[2]


def rendered(folder: Path, **settings: Any) -> Any:
    """The configuration as data."""
    return yaml.safe_load(render(EnvoySettings(**settings), folder).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*.shop.example",
        "shop.example",
        "https://shop.example/",
        "https://shop.example/path",
        "ftp://shop.example",
        "null",
        "https://",
    ],
)
def test_what_is_not_one_exact_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        EnvoySettings(cors_origins=(origin,))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_certificate_file": "a.pem"}, "tls_private_key_file"),
        ({"upstream_ca_file": "ca.pem", "upstream_private_key_file": "a.pem"}, "upstream_certificate_file"),
        ({"upstream_certificate_file": "a.pem", "upstream_private_key_file": "b.pem"}, "upstream_ca_file"),
    ],
)
def test_half_a_certificate_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        EnvoySettings(**given)


def test_nothing_administrates_envoy_unless_asked_for_and_then_from_this_machine_only(tmp_path: Path) -> None:
    assert "admin" not in rendered(tmp_path)
    admin = rendered(tmp_path, admin_port=9901)["admin"]
    assert admin == {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}}


def test_a_value_cannot_break_out_of_its_place(tmp_path: Path) -> None:
    hostile = 'a"}}\n      - evil: {{ 7 * 7 }} # '
    (cluster,) = rendered(tmp_path, upstream_host=hostile)["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["address"] == hostile


def test_the_command_reads_the_environment_and_envoy_accepts_what_it_writes(tmp_path: Path) -> None:
    given = {
        "RECSVC_ENVOY_CORS_ORIGINS": "https://shop.example, http://localhost:3000",
        "RECSVC_ENVOY_ADMIN_PORT": "9901",
        "RECSVC_ENVOY_FORWARD_TENANT_HEADER": "true",
    }
    command = [sys.executable, _ROOT / "deploy" / "envoy" / "render.py", tmp_path]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, **given})
    text = (tmp_path / "envoy.yaml").read_text(encoding="utf-8")
    assert 'exact: "http://localhost:3000"' in text
    validate = [Path(sys.executable).parent / "envoy", "--mode", "validate", "-c", tmp_path / "envoy.yaml"]
    checked = subprocess.run(validate, check=False, timeout=60, capture_output=True, text=True)
    assert "OK" in checked.stdout, checked.stderr


def test_the_command_names_the_setting_that_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, _ROOT / "deploy" / "envoy" / "render.py", tmp_path]
    environment = {**os.environ, "RECSVC_ENVOY_PORT": "-1"}
    refused = subprocess.run(command, check=False, timeout=60, env=environment, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.startswith("RECSVC_ENVOY_PORT: ")) == (1, True)
