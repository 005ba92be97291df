"""The packages: the three layer folders and everything below them, under the import root `perdure`.

All else stands in pyproject.toml. It is done here because only `find_packages` follows the tree: a list
written by hand forgets a subpackage, which then is missing from the wheel while an editable install sees it.
"""

from setuptools import find_packages, setup

LAYERS = ("runtime", "actors", "backends")

setup(
    packages=[f"perdure.{name}" for layer in LAYERS for name in (layer, *(f"{layer}.{below}" for below in find_packages(layer)))],
    package_dir={f"perdure.{layer}": layer for layer in LAYERS},
    package_data={f"perdure.{layer}": ["py.typed"] for layer in LAYERS},
    include_package_data=False,  # else whatever a source list happens to name rides along
)
