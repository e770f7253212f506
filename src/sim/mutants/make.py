#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a copy of the sources in which each mutant of a list can be turned on while the program runs.

    make.py SOURCE_ROOT LIST OUTPUT

A mutant is a fault that is put into the product on purpose, for the simulator to find. LIST has one for each
paragraph: its name and what is wrong then, and for each place the file, the text that stands there (exactly once)
and the text in its stead, in which MUTANT is true if the mutant is on:

    name: what is wrong then
    file: src/...
    - the text
    + the other text

A text that is not found, or twice, ends the build: so the list keeps up with the product.
"""
import pathlib
import re
import shutil
import sys

COPIED = ("kernel/bpf", "device", "device/keys", "device/sa", "datapath", "wire", "base", "kernel", "host", "sim/bpf",
          "crypto", "keyx")
DECLARED = '#ifdef __cplusplus\nextern "C" int psp_mutant;\n#else\nextern int psp_mutant;\n#endif\n'


def read_list(path):
    mutants = []
    for block in re.split(r"\n\s*\n", path.read_text()):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        name, text = lines[0].split(": ", 1)
        mutants.append({"name": name, "text": text, "edits": []})
        for line in lines[1:]:
            edits = mutants[-1]["edits"]
            if line.startswith("file: "):
                edits.append({"file": line[6:], "-": [], "+": []})
            else:
                if line[0] == "-" and edits[-1]["+"]:  # another place in the same file
                    edits.append({"file": edits[-1]["file"], "-": [], "+": []})
                edits[-1][line[0]].append(line[2:])
    return mutants


def copy_sources(root, out):
    shutil.rmtree(out, ignore_errors=True)
    for directory in COPIED:
        (out / "src" / directory).mkdir(parents=True, exist_ok=True)
        for file in (root / "src" / directory).iterdir():
            if file.suffix in (".h", ".hh", ".c", ".cc"):
                shutil.copyfile(file, out / "src" / directory / file.name)
    shutil.copytree(root / "src/sim/bpf/shim", out / "src/sim/bpf/shim")


def main():
    root, listed, out = map(pathlib.Path, sys.argv[1:])
    mutants = read_list(listed)
    copy_sources(root, out)
    touched = set()
    for number, mutant in enumerate(mutants, 1):
        for edit in mutant["edits"]:
            path = out / edit["file"]
            text, old, new = path.read_text(), "\n".join(edit["-"]), "\n".join(edit["+"])
            if text.count(old) != 1:
                sys.exit(f"mutant {mutant['name']}: its text stands {text.count(old)} times in {edit['file']}")
            path.write_text(text.replace(old, new.replace("MUTANT", f"(psp_mutant == {number})")))
            touched.add(path)
    for path in touched:
        path.write_text(DECLARED + path.read_text())
    rows = "".join(f'    {{"{m["name"]}", "{m["text"]}"}},\n' for m in mutants)
    (out / "mutants.inc").write_text(rows)


main()
