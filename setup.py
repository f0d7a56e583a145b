"""Packages of the wheel: those of `autocompress`, and the presets, which lie beside it here."""

from __future__ import annotations

from setuptools import find_packages, setup

# Inside the wheel the folders of presets are where `autocompress.toml` looks for them.
PRESETS = {
    f"autocompress.presets.{folder.replace('/', '.')}": folder
    for folder in ("search_spaces", "objectives", "objectives/devices")
}

setup(
    packages=[*find_packages(include=["autocompress*"]), *PRESETS],
    package_dir=PRESETS,
    package_data={"autocompress": ["py.typed"]} | {name: ["*.toml"] for name in PRESETS},
)
