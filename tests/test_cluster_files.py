"""The files of docs/cluster.md, as far as they can be checked without the cluster."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from depo.recipe.loading import load_recipe

ROOT = Path(__file__).parents[1]
FILES = ROOT / "docs" / "cluster"

# Of KubeRay's ray.io/v1, by the path that leads there; what a pod's template holds is Kubernetes's own.
FIELDS = {
    "": "apiVersion kind metadata spec",
    "spec": """activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint
        entrypointNumCpus entrypointNumGpus entrypointResources jobId managedBy metadata
        rayClusterSpec runtimeEnvYAML
        shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend
        ttlSecondsAfterFinished""",
    "spec.rayClusterSpec": """authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions
        headGroupSpec headServiceAnnotations managedBy networkPolicy rayVersion suspend upgradeStrategy
        workerGroupSpecs""",
    "spec.rayClusterSpec.authOptions": "enableK8sTokenAuth mode secretName",
    "spec.rayClusterSpec.headGroupSpec": """enableIngress headService labels rayStartParams resources
        serviceType template""",
    "spec.rayClusterSpec.workerGroupSpecs": """groupName idleTimeoutSeconds labels maxReplicas minReplicas
        numOfHosts rayStartParams replicas resources scaleStrategy suspend template""",
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load((FILES / "rayjob.yaml").read_text())


def blocks(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every mapping with the path that leads to it; list items have that of their list."""
    if isinstance(value, list):
        return [found for one in value for found in blocks(one, path)]
    if not isinstance(value, dict):
        return []
    below = [found for key, one in value.items() for found in blocks(one, f"{path}.{key}".lstrip("."))]
    return [(path, value), *below]


def test_the_ray_job_has_known_fields_alone(job) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    checked = {path for path, _ in blocks(job)} & set(FIELDS)
    assert checked == set(FIELDS)
    for path, block in blocks(job):
        assert set(block) <= set(FIELDS[path].split()) if path in FIELDS else True, path


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_every_pod_has_the_run_directory_and_room_in_shared_memory(job) -> None:
    for pod in pods(job):
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in volumes[mounts["/shared"]]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_pods_have_the_gpus_that_the_recipe_asks_for_and_the_run_is_theirs(job) -> None:
    shell, flag, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    subprocess.run(["bash", "-n", "-c", script], check=True)
    run_dirs = re.findall(r"--run-dir (\S+?);", script)
    assert len(set(run_dirs)) == 1
    assert run_dirs[0].startswith("/shared/")
    assert f"-f {run_dirs[0]}/recipe.yaml" in script
    (recipe_file,) = set(re.findall(r"recipes/\S+\.yaml", script))
    recipe = load_recipe(ROOT / recipe_file)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    (container,) = workers["template"]["spec"]["containers"]
    gpus = workers["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    engines = recipe.rollout.vllm.workers * recipe.rollout.vllm.tensor_parallel
    assert gpus == recipe.learner.ranks + engines
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert environment["env_vars"]["HF_HOME"].startswith("/shared/")


def test_the_slurm_script_is_bash_with_known_options() -> None:
    script = FILES / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)=?", script.read_text(), flags=re.MULTILINE)
    known = "cpus-per-task exclusive gpus-per-node job-name nodes ntasks-per-node signal time"
    assert sorted(options) == known.split()
    assert "python -m depo train" in script.read_text()


def test_the_dockerfile_installs_what_there_is() -> None:
    text = (FILES / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [name for name, _ in lines] == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "ENV", "CMD"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r'"\.\[(\w+)\]"', text)
    assert extra in project["optional-dependencies"]
    image = lines[0][1]
    assert tuple(map(int, re.findall(r"\d+", image))) >= (3, 11)
    assert lines[-1][1] == '["depo", "doctor"]'
    for name, command in lines:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_page_links_what_there_is() -> None:
    page = ROOT / "docs" / "cluster.md"
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert {"cluster/Dockerfile", "cluster/slurm.sh", "cluster/rayjob.yaml"} <= set(links)
    assert [link for link in links if not (page.parent / link).exists()] == []
