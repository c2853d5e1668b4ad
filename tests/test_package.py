"""The wheel: what it declares, what it holds, and that it works where no checkout is."""

import ast
import functools
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import BytesParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import sima_core
from tests.support import ROOT

#: Rooms whose needs are an extra's and not everybody's.
EXTRAS = {"coco": ("coco", "scoring"), "app": ("app",)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout, without a network."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = out.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a fresh environment that holds the wheel, without its extras.

    What the wheel needs comes from the environment of the tests; what only extras need fails there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)}, scheme="venv")
    programs = Path(paths["scripts"])
    needs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    absent = "import sys; sys.modules.update(gradio=None, pycocotools=None)"
    (Path(paths["purelib"]) / "needs.pth").write_text("\n".join([*needs, absent, ""]), "utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True, timeout=60)
    return programs


def test_wheel_holds_the_package_and_its_assets(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = (p for p in (ROOT / "sima_core").rglob("*") if p.suffix in (".py", ".c", ".typed"))
    assets = {
        path.relative_to(ROOT)
        for path in (ROOT / "assets").rglob("*")
        if path.is_file() and path.name != "screenshot.png"
    }
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    expected |= {f"sima_core/{path.as_posix()}" for path in assets}
    assert held == expected | {"sima_core/__init__.pyi"}


def test_version_is_said_once(metadata):
    assert metadata["Version"] == sima_core.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dynamic"] == ["version"]


def test_pins_lie_within_the_ranges(metadata):
    """What the tests run with is what the wheel asks for, and nothing is asked for unpinned."""
    ranges = _declared(metadata, "dev")  # the base and every extra
    pins = _pins(ROOT / "requirements.txt") | _pins(ROOT / "requirements-dev.txt")
    assert set(ranges) == set(pins)
    for name, required in ranges.items():
        assert required.specifier.contains(pins[name]), f"{required} leaves out {pins[name]}"


def test_space_runs_the_gradio_that_is_pinned():
    front = (ROOT / "README.md").read_text("utf-8").split("---")[1]
    [version] = re.findall(r"^sdk_version: (.+)$", front, re.M)
    assert version == _pins(ROOT / "requirements.txt")["gradio"]


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_import_is_declared(metadata, extra):
    """In the base, or in the extra that the importing room belongs to."""
    declared = _declared(metadata, extra)
    elsewhere = {room for name, rooms in EXTRAS.items() if name != extra for room in rooms}
    for path in _sources():
        if _room(path) not in elsewhere:
            for names in _distributions(path):
                assert names & declared.keys(), f"{path} imports {names}, not declared"


def test_nothing_is_declared_for_nought(metadata):
    imported = {name for path in _sources() for names in _distributions(path) for name in names}
    unused = (_declared(metadata, "") | _declared(metadata, "app")).keys() - imported
    assert unused <= {"torchvision"}  # torchvision_compat.py imports it by its name


def test_installed_package_is_the_wheels(installed, tmp_path):
    program = "import sima_core, sima_core.files as f; print(sima_core.__file__); print(f.ASSETS)"
    done = subprocess.run(
        [installed / "python", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    package, assets = map(Path, done.stdout.splitlines())
    assert package.is_relative_to(installed.parent)
    assert assets == package.parent / "assets"


def test_console_script_writes_the_maps_of_a_picture(installed, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    command = [installed / "sima-lens", "heatmap", "photo.png", "--out", "maps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "untrained" not in done.stderr  # the bundled weights came along
    names = ["photo.json", "photo.npz", "photo_key.png", "photo_query.png"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == names
    assert Image.open(tmp_path / "maps" / "photo_key.png").size == photo.size


def test_console_script_gives_the_exit_status(installed, tmp_path):
    def status(*arguments: str) -> int:
        command = [installed / "sima-lens", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode

    assert status("--help") == 0
    assert status("nonsense") == 2


def _declared(metadata: Message, extra: str) -> dict[str, Requirement]:
    """What the base and an extra ask for here, by name."""
    found = map(Requirement, metadata.get_all("Requires-Dist") or [])
    return {
        canonicalize_name(required.name): required
        for required in found
        if required.marker is None or required.marker.evaluate({"extra": extra})
    }


def _pins(file: Path) -> dict[str, str]:
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    pinned = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pinned}


def _sources() -> Iterator[Path]:
    """Every module of the program, relative to the root."""
    for folder in ("sima_core", "app"):
        yield from (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
    yield Path("app.py")


def _room(path: Path) -> str:
    return path.parts[1] if path.parts[0] == "sima_core" else "app"


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return packages_distributions()


def _distributions(path: Path) -> Iterator[set[str]]:
    """For each foreign module that a file imports anywhere in it: the packages that it is from."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add((node.module or "").partition(".")[0])
    for module in modules - set(sys.stdlib_module_names) - {"sima_core", "app"}:
        yield {canonicalize_name(name) for name in _owners().get(module, [module])}
