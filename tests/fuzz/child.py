"""Runs one target under atheris: python -m tests.fuzz.child NAME DIRECTORY [libFuzzer's arguments]...

`runner.py` starts it in a process of its own, because libFuzzer ends the process. Importing this module imports none of
the code under test, which must be instrumented while it is imported.
"""

import sys
from pathlib import Path

import atheris

from tests.fuzz.target import TARGETS, Target, load
from tests.layers import modules_in

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run until a find, or as long as the arguments say."""
    name, directory = sys.argv[1], Path(sys.argv[2])
    # How far a text begins or ends with another one counts as coverage, too.
    atheris.enabled_hooks.add("str")
    packages = sorted({module.partition(".")[0] for module in TARGETS[name]})
    with atheris.instrument_imports(include=packages, exclude=others(name)):
        target = load(name)
        import tracker

    assert not tracker.COMPILED, "compiled modules cannot be instrumented"
    prepare(target, directory)
    arguments = [
        f"-max_len={target.max_size}",
        f"-dict={directory / 'words'}",
        f"-artifact_prefix={directory / 'finds'}/",
        "-timeout=60",
        "-print_final_stats=1",
        # Of the corpus, only the first directory is written to.
        str(directory / "corpus"),
        str(directory / "seeds"),
    ]
    atheris.Setup([sys.argv[0], *sys.argv[3:], *arguments], target.check)
    atheris.Fuzz()


def others(name: str) -> list[str]:
    """Return the modules that are not instrumented for a target: that takes seconds, and atheris would include them."""
    wanted = TARGETS[name]
    return [
        module
        for module in modules_in(ROOT)
        if module not in wanted and not module.startswith(tuple(f"{package}." for package in wanted))
    ]


def prepare(target: Target, directory: Path) -> None:
    """Write the seeds and the dictionary of a target."""
    for part in ("corpus", "seeds", "finds"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (directory / "seeds" / f"{number:04}").write_bytes(seed[: target.max_size])
    # libFuzzer takes no longer words.
    words = [word[:64] for word in target.words]
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
    (directory / "words").write_text("".join(f'"{line}"\n' for line in lines))


if __name__ == "__main__":
    main()
