"""Packaging, make targets, and rules for imports and names."""

import ast
import configparser
import os
import pathlib
import re
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("efficientdet_tf", "keras_layers", "export")
MODULES = sorted(
    path.relative_to(REPOSITORY)
    for pattern in ("*.py", "*/**/*.py")
    for path in REPOSITORY.glob(pattern)
    if path.relative_to(REPOSITORY).parts[0] in (*PACKAGES, "tests", "benchmarks")
    or path.parent == REPOSITORY
)


def imported(module: pathlib.Path, with_type_hints: bool = True) -> set[str]:
    """Return the full names of all imports of a module, anywhere in the file."""
    names = set()
    tree = ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
    if not with_type_hints:
        tree.body = [node for node in tree.body if not _is_for_type_hints(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_for_type_hints(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> pathlib.Path:
    """Folder of the package metadata of setup.py."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder / "efficientdet_tf.egg-info"


def test_every_module_and_file_is_packaged(metadata):
    packaged = set((metadata / "SOURCES.txt").read_text().split())
    expected = {str(path) for path in MODULES if path.parts[0] in PACKAGES}
    expected |= {
        str(path.relative_to(REPOSITORY))
        for pattern in ("config/presets/*.yaml", "report/*.css")
        for path in (REPOSITORY / "efficientdet_tf").glob(pattern)
    } | {f"{package}/py.typed" for package in PACKAGES}
    assert len(expected) > 30
    assert expected <= packaged
    assert set((metadata / "top_level.txt").read_text().split()) == set(PACKAGES)


def test_every_command_is_a_function(metadata):
    scripts = configparser.ConfigParser()
    scripts.read(metadata / "entry_points.txt")
    commands = dict(scripts["console_scripts"])
    assert list(commands) == [
        "efficientdet-data",
        "efficientdet-draw",
        "efficientdet-eval",
        "efficientdet-export",
        "efficientdet-predict",
        "efficientdet-report",
        "efficientdet-settings",
        "efficientdet-train",
    ]
    for target in commands.values():
        module, function = target.split(":")
        source = (REPOSITORY / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        functions = [node.name for node in ast.parse(source).body if hasattr(node, "name")]
        assert function in functions, target


def test_imported_packages_are_required(metadata):
    required = (metadata / "requires.txt").read_text().split("\n[")[0].lower()
    packages = {
        "PIL": "pillow",
        "absl": "absl-py",
        "ai_edge_litert": "ai-edge-litert",
        "google": "protobuf",
        "official": "tf-models-official",
        # Its core, pinned by pydantic itself.
        "pydantic_core": "pydantic",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
    outside = {
        name.partition(".")[0]
        for module in MODULES
        if module.parts[0] in PACKAGES
        for name in imported(module)
    } - {*sys.stdlib_module_names, *PACKAGES}
    assert outside >= {"tensorflow", "tf_keras", "numpy"}
    # Imported where they are needed; grpc comes with tensorflow_serving, and
    # tensorflow_datasets with tf-models-official today.
    optional = {"av", "grpc", "onnx", "onnxruntime", "openvino"}
    optional |= {"tensorflow_datasets", "tensorflow_serving"}
    extras = (metadata / "requires.txt").read_text()
    for extra in (
        *("serving]\ntensorflow-serving-api", "video]\nav"),
        *("onnx]\ntf2onnx", "openvino]\nopenvino"),
    ):
        assert f"\n[{extra}" in extras
    for name in outside - optional:
        assert f"\n{packages.get(name, name)}".lower() in f"\n{required}", name


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_keras_is_tf_keras(module):
    names = imported(module)
    assert not [name for name in names if name.split(".")[0] == "keras"]
    assert not [name for name in names if name.startswith("tensorflow.keras")]
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse((REPOSITORY / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert "tf.keras" not in attributes


def test_one_module_imports_tensorflow_addons():
    importing = set()
    for module in MODULES:
        tree = ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
        # It may be imported by a statement or by name.
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        names = imported(module) | {text for text in texts if isinstance(text, str)}
        if module.parts[0] != "tests" and any(n.startswith("tensorflow_addons") for n in names):
            importing.add(str(module))
    assert importing == {"efficientdet_tf/addons/loading.py"}


# Layers in dependency order: each may import those before it; small modules first, the commands
# last.
LAYERS = [
    *("errors", "files", "cache_directory", "devices", "output_files", "backbones", "config"),
    *("addons", "boxes", "box_tensors", "anchors", "targets", "losses", "model", "complexity"),
    *("metrics_history", "resuming", "data", "run_directory", "checkpoints"),
    *("visualization", "inference", "detector", "evaluation", "report", "training", "cli"),
]


def layer(name: str) -> str:
    """Return the file or folder of `efficientdet_tf` that contains a full name."""
    return (name.split(".") + [""])[1]


def test_layers_are_ordered_without_cycles():
    """Imports for type hints are exempt: they load nothing."""
    places = {name: place for place, name in enumerate(LAYERS)}
    for module in MODULES:
        here = module.with_suffix("").parts
        if here[0] != "efficientdet_tf" or here[1].startswith("__"):
            continue
        assert here[1] in places, f"{module}: give its layer a place in LAYERS"
        for name in imported(module, with_type_hints=False):
            inside = name.startswith("efficientdet_tf.") and not layer(name).startswith("__")
            if inside and layer(name) != here[1]:
                assert places[layer(name)] < places[here[1]], f"{module} imports {name}"


@pytest.mark.parametrize("module", ["detector", "cli.train", "cli.eval", "cli.predict", "cli.data"])
def test_inference_loads_no_training_code(module):
    code = (
        f"import sys, efficientdet_tf.{module}; "
        "sys.exit(any(name.startswith('efficientdet_tf.training') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("keras_layers", ("efficientdet_tf", "export")), ("efficientdet_tf", ("export",))],
)
def test_packages_depend_one_way(package, forbidden):
    for module in MODULES:
        if module.parts[0] == package:
            packages = {name.partition(".")[0] for name in imported(module)}
            assert not packages & set(forbidden), module


def test_modules_have_specific_names():
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [module for module in MODULES if module.stem in vague]


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "train.py --config=digits --model_dir=runs/demo"),
        ("test", "-m pytest"),
        ("lint", "ruff check ."),
        ("lint", "mypy"),
        ("docs", "zensical build --strict"),
    ],
)
def test_make_targets_make_their_environment_first(tmp_path, target, command):
    venv = tmp_path / "venv"
    # Called by another make, it would print the directories it enters.
    arguments = ["make", "--no-print-directory", "--dry-run", f"VENV={venv}", target]
    fresh = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = fresh.stdout.splitlines()
    assert lines[0] == f"python3 -m venv {venv}"
    assert any(line.endswith("--editable '.[dev]'") for line in lines)
    assert command in fresh.stdout
    # An existing environment is reused.
    venv.mkdir()
    (venv / ".installed").touch()
    again = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "-m venv" not in again.stdout and command in again.stdout


def test_the_integration_script_can_be_run():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_a_skipped_parity_test_fails_where_the_goldens_are_required(tmp_path):
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_parity(goldens): pytest.skip('tired')\n"
        "def test_other(): pytest.skip('no image')\n"
    )
    (tmp_path / "goldens").mkdir()
    environment = {
        "EFFICIENTDET_GOLDENS": str(tmp_path / "goldens"),
        "EFFICIENTDET_REQUIRE_GOLDENS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=tmp_path,
    )
    assert "skipped although the goldens are required: tired" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 failed, 1 skipped in ")


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md"])
def test_files_named_in_documents_exist(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:efficientdet_tf|keras_layers|export|tests)/[\w/.]+\.\w+)`", text))
    assert not [name for name in named if not (REPOSITORY / name).is_file()]
    assert named or document != "CONTRIBUTING.md"
