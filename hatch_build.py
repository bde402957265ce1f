"""Compiles the modules that every message goes through with mypyc, when a wheel is built.

Without a C compiler, or Python's headers, the wheel has them as plain Python: the same, but slower. An editable install
never has them compiled, so that nothing is older than its source.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):
    """`modules` are the paths of the modules to compile."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to a wheel."""
        if version == "editable":
            return
        self._directory = TemporaryDirectory(prefix="peerservers-")
        try:
            compiled = _compile(self.config["modules"], self._directory.name)
        except (Exception, SystemExit) as error:  # setuptools and mypyc end the process where they fail
            self.app.display_warning(f"the tracker is not compiled, and will be slower: {error}")
            return
        build_data["force_include"].update(compiled)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(modules: list[str], build: str) -> dict[str, str]:
    """Where each compiled file is, and its place in the wheel."""
    # Only here: an editable install does not need them.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    # What is wrong with types has been found before. Here is nothing but the standard library to look at.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    options += ["--cache-dir", f"{build}/mypy"]
    extensions = mypycify([*options, *modules], opt_level="3", target_dir=f"{build}/c", group_name="tracker")
    for extension in extensions:
        # What a newer compiler warns of is no reason to go without.
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
    command = build_ext(Distribution({"name": "peerservers", "ext_modules": extensions}))
    command.build_lib, command.build_temp = f"{build}/lib", f"{build}/temp"
    command.ensure_finalized()
    command.run()
    return {path: str(Path(path).relative_to(command.build_lib)) for path in command.get_outputs()}
