"""The registry that models, encoders, losses, layouts and tasks share."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segmodels.errors import InputError
from segmodels.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``shapes`` whose registry lies in ``shapes/__init__.py``."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from segmodels.registry import Registry\nSHAPES = Registry('shape', 'shapes')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[name]


def shapes() -> Registry[object, str]:
    import shapes  # type: ignore[import-not-found]

    return shapes.SHAPES


SQUARE = """from shapes import SHAPES

@SHAPES.register("square", "Euclid")
def square(side, colour="red", **style):
    \"\"\"Four equal
    sides.

    And four right angles.\"\"\"
    return side, colour
"""


def test_every_module_of_the_package_registers_at_the_first_look_up(package: Path) -> None:
    (package / "square.py").write_text(SQUARE, encoding="utf-8")
    (package / "circle.py").write_text(
        "from shapes import SHAPES\n\n@SHAPES.register('circle', None)\nclass Circle:\n    pass\n", encoding="utf-8"
    )
    registry = shapes()
    assert "shapes.square" not in sys.modules
    assert registry.names() == ["circle", "square"]
    assert [entry.name for entry in registry] == ["circle", "square"]
    assert "square" in registry
    assert "triangle" not in registry
    entry = registry["square"]
    assert (entry.card, entry.build(2)) == ("Euclid", (2, "red"))
    assert entry.summary == "Four equal sides."
    assert list(entry.options) == ["side", "colour"]
    assert entry.options["colour"] == "red"


def test_threads_that_look_up_first_all_see_every_name(package: Path) -> None:
    for name in ("a", "b", "c"):
        (package / f"{name}.py").write_text(
            "import time\nfrom shapes import SHAPES\ntime.sleep(0.02)\n"
            f"SHAPES.register({name!r}, 'card')(dict)\nassert {name!r} in SHAPES\n"
        )
    registry = shapes()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: registry.names(), range(8))) == [["a", "b", "c"]] * 8


def test_an_unknown_name_or_option_names_the_nearest(package: Path) -> None:
    (package / "square.py").write_text(SQUARE, encoding="utf-8")
    registry = shapes()
    with pytest.raises(InputError, match=r"unknown shape 'sqare': did you mean 'square'\?"):
        registry["sqare"]
    with pytest.raises(InputError, match=r"unknown option 'color' of shape 'square': did you mean 'colour'\?"):
        registry.check_options("square", {"color": "blue"}, ["side", "colour"])
    registry.check_options("square", {"colour": "blue"}, ["side", "colour"])


def test_a_name_is_taken_once(package: Path) -> None:
    (package / "square.py").write_text(SQUARE, encoding="utf-8")
    registry = shapes()
    assert registry.names() == ["square"]
    with pytest.raises(RuntimeError, match="shape 'square' is registered twice"):
        registry.register("square", "again")(object)


def test_a_module_that_fails_to_import_fails_every_look_up_until_it_is_mended(package: Path) -> None:
    (package / "square.py").write_text("raise OSError('disk')\n", encoding="utf-8")
    registry = shapes()
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            registry.names()
