"""Renders a chart with Helm's own library: usage: chart.py CHART MANIFEST

Without values it must come to MANIFEST; with them, too, it must pass lint, and what Kubernetes says of its objects.
"""

import sys

import helm_python
import kubernetes_validate
import yaml

VALUES = [
    {},
    {
        "image": {"tag": "other"},
        "imagePullSecrets": [{"name": "secret"}],
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "appArmorUnconfined": False,
        "seccompProfile": {"type": "Unconfined"},
        "nodeSelector": {},
        "tolerations": [],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-node-critical",
        "podAnnotations": {"a": "b"},
        "podLabels": {"a": "b"},
        "serviceAccount": {"create": False},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
]
# As of 1.30 AppArmor's profile is a field.
VERSIONS = ["1.30", "1.34"]

chart, manifest = sys.argv[1:]
with open(manifest) as file:
    expected = list(yaml.safe_load_all(file))
for values in VALUES:
    report = helm_python.chart.lint(chart, values, strict=True)
    worse = [message for message in report["messages"] if message["severity"] > 1]
    assert not report["errors"] and not worse, report
    with helm_python.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name="concmon-agent", namespace="concmon")
    objects = [of for text in rendered.values() for of in yaml.safe_load_all(text) if of]
    kinds = sorted(of["kind"] for of in objects)
    if not values:
        assert kinds == ["ConfigMap", "DaemonSet", "Service", "ServiceAccount"], kinds
        by_kind = {of["kind"]: of for of in objects}
        assert by_kind == {of["kind"]: of for of in expected}, "not what the chart renders: " + manifest
        config = by_kind["ConfigMap"]["data"]["agent.toml"]
    else:
        assert kinds == ["ConfigMap", "DaemonSet", "Service", "ServiceMonitor"], kinds
    for of in objects:
        # The operator's own kinds are not known.
        if of["kind"] != "ServiceMonitor":
            for version in VERSIONS:
                kubernetes_validate.validate(of, version, strict=True)
print(config, end="")
