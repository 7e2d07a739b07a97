"""The files of deploy/: Prometheus, Grafana and Kubernetes can read them, and they suit the service.

`tests/test_service.py` compares the names of their metrics with those that the service exports.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from critic.service.middleware import RequestMiddleware
from critic.service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY, TESTED = ROOT / "deploy", Path(__file__).with_name("alerts.yaml")
RULES, MANIFEST = DEPLOY / "prometheus/alerts.yaml", DEPLOY / "kubernetes/critic.yaml"
UV = shutil.which("uv", path=f"{sys.prefix}/bin") or "uv"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="checking rules needs promtool: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yaml")
    promtool("check", "rules", RULES)
    promtool("test", "rules", TESTED)


def test_each_alert_is_tested_firing() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    cases = [case for test in yaml.safe_load(TESTED.read_text())["tests"] for case in test["alert_rule_test"]]
    assert [rule["alert"] for rule in group["rules"]] and {rule["alert"] for rule in group["rules"]} == {
        case["alertname"] for case in cases if case["exp_alerts"]
    }


@needs_promtool
def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    panels = json.loads((DEPLOY / "grafana/critic.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 15
    rules = [
        {"record": f"query{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    (deployment,) = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"]
    return dict(deployment["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return dict(container)


def test_a_pod_that_ends_finishes_its_longest_request(pod: dict[str, Any]) -> None:
    """Five times the timeout is BentoML's limit in critic/service/bento.py."""
    assert pod["terminationGracePeriodSeconds"] > 5 * Settings.model_fields["timeout"].default


def test_the_settings_of_the_pod_are_the_services(container: dict[str, Any]) -> None:
    names = [variable["name"] for variable in container["env"]]
    assert {name.removeprefix("CRITIC_").lower() for name in names} <= {*Settings.model_fields}


def test_the_probes_need_no_key(container: dict[str, Any]) -> None:
    """A kubelet is another machine, and its header Host is the pod's address."""
    app = Starlette(routes=[Route("/{path}", lambda _: Response())])
    limited = RequestMiddleware(app, Settings.model_validate({"keys": "trainer:Lw0uKc1n8yQeVd3R"}))
    transport = httpx.ASGITransport(limited, client=("10.1.0.1", 40000))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://10.1.2.3:3000") as kubelet:
            return [(await kubelet.get(path)).status_code for path in (*probes(container), "/metrics")]

    assert asyncio.run(statuses()) == [200, 200, 200, 401]


def probes(container: dict[str, Any]) -> list[str]:
    return [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]


@pytest.mark.nightly
def test_kubernetes_knows_the_manifest() -> None:
    overlay = ["run", "--quiet", "--isolated", "--no-project", "--with", "kubernetes-validate==1.37.0"]
    command = [UV, *overlay, "kubernetes-validate", "--strict", str(MANIFEST)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(re.findall("passed for resource", run.stdout + run.stderr)) == 3
