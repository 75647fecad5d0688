"""What stands in clusters/: scripts, manifests and the image, as far as they can be run here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import cli
from cache.storage import LocalStorage
from cache.verify import shard_state
from pipeline.plan import make_plan
from schemas.errors import EXIT_CRASH, EXIT_ERROR, EXIT_RETRY
from tests.fakes import write_catalog

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "clusters" / "kubernetes"
MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))
VERSION = "1.37"
BIN = Path(sys.executable).parent
SCRIPTS = [
    path
    for path in [*ROOT.glob("clusters/**/*"), ROOT / ".ci" / "run"]
    if path.is_file() and path.read_text().startswith("#!/usr/bin/env bash")
]


def jobs(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Job"]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    pod = job["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_accepts(path: Path) -> None:
    """A misspelled field is dropped in silence by the server; strictly, it is an error."""
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_a_misspelled_field_is_found() -> None:
    """Else the test above shows nothing."""
    (job,) = jobs(KUBERNETES / "embed.yaml")
    job["spec"]["backOffLimitPerIndex"] = job["spec"].pop("backoffLimitPerIndex")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSION, strict=True)


def test_the_containers_command_embeds_the_shard_of_its_index(
    tmp_path: Path, small_model: Path
) -> None:
    """Run as the pod runs it, with what the Job controller and the ConfigMap set."""
    workspace = LocalStorage(tmp_path / "workspace")
    items, labels = write_catalog(tmp_path / "catalog", num_items=48)
    model = {"model": f"local-dir:{small_model}", "pretrained": "", "device": "cpu"}
    plan = make_plan(
        workspace, items=items, labels=labels, shard_rows=16, chunk_rows=16, **model
    ).plan
    (job,) = jobs(KUBERNETES / "embed.yaml")
    (container,) = containers(job)
    config = next(yaml.safe_load_all((KUBERNETES / "workspace.yaml").read_text()))["data"]
    assert config["SHELFWISE_WORKSPACE"] == "/data/workspace"

    def run(index: int) -> tuple[int, list[dict[str, Any]]]:
        found = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "SHELFWISE_WORKSPACE": str(workspace.root),
            "JOB_COMPLETION_INDEX": str(index),
        }
        done = subprocess.run(
            container["command"],
            cwd=ROOT,
            env=os.environ | config | found,
            capture_output=True,
            text=True,
        )
        return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]

    code, events = run(1)
    assert code == 0, events
    assert [each["shard"] for each in events if each["event"] == "shard_done"] == [1]
    states = [shard_state(workspace, plan, shard).state for shard in range(3)]
    assert states == ["missing", "done", "missing"]
    code, events = run(3)
    assert (code, events[-1]["kind"], events[-1]["exit_code"]) == (1, "ShardError", 1)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_what_a_pod_calls_is_a_command_line_of_ours(path: Path) -> None:
    """A renamed option would be noticed by the first pod, hours later."""
    for job in jobs(path):
        for container in containers(job):
            words = " ".join(container["command"]).partition("cli.py ")[2].rstrip("'\"")
            name, *options = words.replace('"$JOB_COMPLETION_INDEX', "0").split()
            cli.main.commands[name].make_context(name, options)


def test_pods_run_as_nobody_and_can_write_only_their_volumes() -> None:
    """As clusters of strangers demand."""
    for path in MANIFESTS:
        for job in jobs(path):
            pod = job["spec"]["template"]["spec"]
            assert pod["restartPolicy"] == "Never"
            assert pod["securityContext"]["runAsNonRoot"]
            for container in containers(job):
                assert container["securityContext"]["readOnlyRootFilesystem"]
                assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_schedulers_know_our_exit_codes() -> None:
    """What a person has to mend is not tried again; what may pass is."""
    (job,) = jobs(KUBERNETES / "embed.yaml")
    rules = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {"FailIndex": [EXIT_ERROR], "FailJob": [2]}
    script = (ROOT / "clusters" / "slurm" / "task.sbatch").read_text()
    assert f"    {EXIT_CRASH} | {EXIT_RETRY} | 143)\n" in script


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_passes(path: Path) -> None:
    """Quoting mistakes show with the first path that has a space."""
    done = subprocess.run([BIN / "shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_without_its_arguments_a_script_says_what_they_are() -> None:
    """Called as one does from the project's folder; it used to look for itself elsewhere."""
    script = str((KUBERNETES / "run.sh").relative_to(ROOT))
    done = subprocess.run([script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Embed all shards of a planned workspace")
    assert f"{script} SHARDS PARALLEL" in done.stderr


def test_all_scripts_were_looked_at() -> None:
    """A new one is found by its first line."""
    assert {path.name for path in SCRIPTS} == {"run", "run.sh", "submit.sh", "task.sbatch"}


def test_hadolint_passes() -> None:
    """And the image holds what the commands import."""
    dockerfile = KUBERNETES / "Dockerfile"
    done = subprocess.run([BIN / "hadolint", dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copied = dockerfile.read_text()
    ignored = (KUBERNETES / "Dockerfile.dockerignore").read_text()
    for name in ("cli.py", "schemas", "cache", "pipeline"):
        assert f"COPY {name} " in copied
        assert f"!{name}\n" in ignored
