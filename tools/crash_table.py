#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The work of tools/crash-table.sh, which says how it is called.

A mutation is an object with `name`, `file`, `replace` (text that occurs there once), `by`, and `levels`: a list of
[level, test program, test case], each of which has to fail.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "crash-table"
PARTS = ["CMakeLists.txt", "CMakePresets.json", "cmake", "modules", "src", "tests", "examples", "LICENSE-MIT", "LICENSE-APACHE",
         "docs", "README.md", "CHANGELOG.md"]
LONGEST = 900  # seconds a test may take


def copy_sources():
    """Brings the copy to the state of the sources, without touching what is the same: so little is built again."""
    for part in PARTS:
        source = ROOT / part
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        for file in files:
            copy = TREE / file.relative_to(ROOT)
            if not copy.exists() or copy.read_bytes() != file.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                copy.chmod(file.stat().st_mode)


def run(*command, check=True, **options):
    done = subprocess.run(command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", **options)
    if check and done.returncode != 0:
        sys.exit(f"crash-table: {' '.join(command)} failed\n{done.stdout}")
    return done


def build(programs):
    return run("cmake", "--build", "--preset", "dev", "--target", *sorted(programs), check=False)


def fails(program, case):
    scratch = {"FMMAP_SCRATCH": "/dev/shm"} if pathlib.Path("/dev/shm").is_dir() else {}
    try:
        done = run(str(TREE / "build" / "dev" / "tests" / program), f"--run_test={case}", check=False, timeout=LONGEST,
                   env=os.environ | scratch)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def mutated(mutation):
    text = (ROOT / mutation["file"]).read_text()
    if text.count(mutation["replace"]) != 1:
        sys.exit(f"crash-table: {mutation['file']} does not hold what \"{mutation['name']}\" replaces, once")
    return text.replace(mutation["replace"], mutation["by"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    mutations = json.loads((ROOT / "tests" / "mutations.json").read_text())
    chosen = [m for m in mutations if not arguments.names or any(name in m["name"] for name in arguments.names)]
    if not chosen:
        sys.exit("crash-table: tests/mutations.json has no mistake of that name")
    for mutation in chosen:  # before anything is built
        mutated(mutation)
    tests = sorted({tuple(level) for mutation in chosen for level in mutation["levels"]})
    programs = {program for _, program, _ in tests}

    copy_sources()
    run("cmake", "--preset", "dev")
    built = build(programs)
    if built.returncode != 0:
        sys.exit(f"crash-table: the build failed\n{built.stdout}")
    for level, program, case in tests:
        if fails(program, case):
            sys.exit(f"crash-table: {program} --run_test={case} fails without any mistake")
    print(f"{'without a mistake':<58} passes", flush=True)

    rows = []
    for mutation in chosen:
        copy_sources()
        (TREE / mutation["file"]).write_text(mutated(mutation))
        built = build(programs)
        if built.returncode != 0:
            sys.exit(f"crash-table: \"{mutation['name']}\" does not build\n{built.stdout}")
        for level, program, case in mutation["levels"]:
            caught = fails(program, case)
            rows.append({"name": mutation["name"], "level": level, "test": program, "case": case, "caught": caught})
            print(f"{mutation['name']:<58} {level}: {'caught' if caught else 'MISSED'}", flush=True)
    copy_sources()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    missed = sum(not row["caught"] for row in rows)
    print(f"crash-table: {len(chosen)} mistakes, {len(rows) - missed} caught, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
