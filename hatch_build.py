"""Compiles the modules on the path of every message with mypyc when a wheel is built.

Without a C compiler or Python's headers, the wheel contains them as plain Python, which works the same but is slower.
An editable install is never compiled, so that no compiled module is older than its source.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):
    """The build hook. Its option `modules` has the paths of the modules to compile."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to a wheel."""
        if version == "editable":
            return
        self._directory = TemporaryDirectory(prefix="peerservers-")
        try:
            compiled = _compile(self.config["modules"], self._directory.name)
        except (Exception, SystemExit) as error:  # setuptools and mypyc exit when they fail
            self.app.display_warning(f"the tracker is not compiled, and therefore slower: {error}")
            return
        build_data["force_include"].update(compiled)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(modules: list[str], build: str) -> dict[str, str]:
    """Compile modules in the directory `build`.

    Return the path of each compiled file with its path in the wheel.
    """
    # Imported here, because an editable install does not need them.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    # The types have been checked before, with all packages. Here mypy sees only the standard library.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    options += ["--cache-dir", f"{build}/mypy"]
    extensions = mypycify([*options, *modules], opt_level="3", target_dir=f"{build}/c", group_name="tracker")
    for extension in extensions:
        # A warning of a newer C compiler must not fail the build.
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
    command = build_ext(Distribution({"name": "peerservers", "ext_modules": extensions}))
    command.build_lib, command.build_temp = f"{build}/lib", f"{build}/temp"
    command.ensure_finalized()
    command.run()
    return {path: str(Path(path).relative_to(command.build_lib)) for path in command.get_outputs()}
