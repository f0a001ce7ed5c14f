"""Manifests: what must hold of each pod, policy and service."""

import re

import pytest
import yaml

from deploy.supervise.permissions import numbered
from tests.support.deployment import DEPLOY, FIRST, USERS, compose, mounts_of


def manifests(name):
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))


def of_kind(name, kind):
    return [m for m in manifests(name) if m["kind"] == kind]


PODS = [
    pytest.param(side, d["spec"]["template"]["spec"], id=d["metadata"]["name"])
    for side in USERS
    for d in of_kind(side, "Deployment")
]
CONTAINERS = [
    pytest.param(param.values[0], container, id=f"{param.id}-{container['name']}")
    for param in PODS
    for container in param.values[1]["containers"]
]


@pytest.mark.parametrize(("side", "pod"), PODS)
def test_a_pod_meets_the_restricted_standard(side, pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    people = numbered(side, FIRST[side])
    assert set(pod["securityContext"]["supplementalGroups"]) <= {
        people.groups[g] for g in people.members
    }


@pytest.mark.parametrize(("side", "container"), CONTAINERS)
def test_a_container_is_closed_in_and_has_its_user(side, container):
    context = container["securityContext"]
    user = numbered(side, FIRST[side]).users[container["name"]]

    assert (context["runAsUser"], context["runAsGroup"]) == (user, user)
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "limits" in container["resources"]
    assert "livenessProbe" in container
    assert not any("secretKeyRef" in str(entry) for entry in container.get("env", []))


@pytest.mark.parametrize(("side", "container"), CONTAINERS)
def test_a_container_sees_what_its_service_sees(side, container):
    base = f"/var/lib/fedseg/{side}/"
    seen = {
        (mount["subPath"], not mount.get("readOnly", False))
        for mount in container["volumeMounts"]
        if mount["name"] == side
    }
    expected = {
        (below, rw)
        for variable, below, rw in mounts_of(compose(side)[container["name"]])
        if variable == f"FEDSEG_{side.upper()}:?"
    }

    assert seen == expected
    for mount in container["volumeMounts"]:
        if mount["name"] == side:
            assert mount["mountPath"] == base + mount["subPath"]


@pytest.mark.parametrize("side", ["hub", "site"])
def test_every_process_is_a_container_of_one_replica(side):
    found = [c["name"] for d in of_kind(side, "Deployment")
             for c in d["spec"]["template"]["spec"]["containers"]]  # fmt: skip

    assert sorted(found) == sorted(set(USERS[side]) - {"metrics"})
    for deployment in of_kind(side, "Deployment"):
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("side", ["hub", "site"])
def test_a_namespace_is_closed_but_for_what_is_named(side):
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(side, "NetworkPolicy")}

    closed = policies.pop("nothing")
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (opened,) = policies.values()
    if side == "hub":
        assert opened["podSelector"] == {"matchLabels": {"app": "fedseg-hub"}}
        assert opened["ingress"] == [{"ports": [{"protocol": "TCP", "port": 443}]}]
        assert "egress" not in opened
    else:
        names = opened["podSelector"]["matchExpressions"][0]["values"]
        assert "fedseg-site-worker" not in names
        assert "ingress" not in opened
        assert [p["port"] for rule in opened["egress"] for p in rule["ports"]] == [443, 53, 53]


def test_the_hubs_service_leads_to_the_public_port_alone():
    (service,) = of_kind("hub", "Service")

    assert [port["targetPort"] for port in service["spec"]["ports"]] == [443]
    assert of_kind("site", "Service") == []
    ports = [c["name"] for d in of_kind("hub", "Deployment")
             for c in d["spec"]["template"]["spec"]["containers"] if "ports" in c]  # fmt: skip
    assert ports == ["proxy"]


def test_no_secret_stands_in_a_manifest():
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        assert "Secret" not in [m["kind"] for m in yaml.safe_load_all(path.read_text())]
        assert not re.search(r"(password|token|BEGIN|fedseg1\.)", path.read_text())


@pytest.mark.parametrize("side", ["hub", "site"])
def test_only_the_admin_pod_is_root_and_it_ends_by_itself(side):
    (pod,) = manifests(f"{side}-admin")
    (container,) = pod["spec"]["containers"]

    assert container["securityContext"]["runAsUser"] == 0
    assert set(container["securityContext"]["capabilities"]["add"]) == {
        "CHOWN", "FOWNER", "FSETID", "DAC_OVERRIDE",
    }  # fmt: skip
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["spec"]["activeDeadlineSeconds"] == 3600
