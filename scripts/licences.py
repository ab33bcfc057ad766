#!/usr/bin/env python3
"""Writes the licence texts of all crates that a package of this repository links in: licences.py PACKAGE FOLDER

They are in THIRD-PARTY-LICENCES.txt in the folder, and those of Rust's standard library in a file beside it, where the
toolchain has that.

What is linked in are the package's normal dependencies for this machine's system, with the features that the package has
when it is built by itself. Procedural macros and what only builds or tests need are no part of a binary, and so not here.
The texts are those that the crates' own packages have. A crate whose package has none is named as such, with the licence
that its manifest states. Needs no more than Python 3 and cargo, which fetches the sources that are not there yet.

Exit codes: 1 cargo failed, or a crate states no licence; 2 the command line cannot be followed.
"""

import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Files of this name have a licence, a copyright or a notice; what looks like code has none.
NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense|authors)", re.IGNORECASE)
CODE = {".rs", ".toml", ".py", ".sh", ".json", ".yml", ".yaml", ".c", ".h", ".tmpl", ".hbs"}
LINE = "=" * 100
LIST = "THIRD-PARTY-LICENCES.txt"
# What is said of the standard library, and the file of the toolchain that says it.
STANDARD = "RUST-STANDARD-LIBRARY.html"
STANDARD_OF_TOOLCHAIN = "share/doc/rust/COPYRIGHT-library.html"


def run(*command):
    """What a command prints."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(1)
    return done.stdout.decode()


def linked(package, host):
    """Names and versions of the crates that the package links in on the host, itself left out."""
    tree = run(
        "cargo", "tree", "--locked", "--package", package, "--edges", "normal,no-proc-macro", "--target", host,
        "--prefix", "none", "--format", "{p}",
    )
    crates = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    return sorted((name, version[1:]) for name, version in crates if not name.startswith("edge-run"))


def licence_files(package):
    """The files of a crate's package that have a licence text, by their paths within it."""
    folder = pathlib.Path(package["manifest_path"]).parent
    found = {path for path in folder.iterdir() if path.is_file() and NAMES.match(path.name)}
    for sub in folder.iterdir():
        if sub.is_dir() and NAMES.match(sub.name):
            found |= {path for path in sub.rglob("*") if path.is_file()}
    if package.get("license_file"):
        stated = folder / package["license_file"]
        found |= {stated} if stated.is_file() else set()
    return folder, sorted(path for path in found if path.suffix.lower() not in CODE)


def text_of(path):
    """The text, with the line ends of this file and without white space at the ends of its lines."""
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\f", "\n")
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) + "\n"


def standard_library(to):
    """Copies what the toolchain says of the standard library's licences to a folder, and says in words where it is."""
    told = pathlib.Path(run("rustc", "--print", "sysroot").strip(), STANDARD_OF_TOOLCHAIN)
    if not told.is_file():
        return "The Rust standard library is linked in too; the toolchain that built this has no file of its licences."
    shutil.copyfile(told, to / STANDARD)
    return f"The Rust standard library is linked in too; {STANDARD} has its licences."


def main():
    if len(sys.argv) != 3 or not pathlib.Path(sys.argv[2]).is_dir():
        print("usage: licences.py PACKAGE FOLDER", file=sys.stderr)
        sys.exit(2)
    name, to = sys.argv[1], pathlib.Path(sys.argv[2])
    host = re.search(r"^host: (.*)$", run("rustc", "-vV"), re.MULTILINE).group(1)
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host))
    packages = {(package["name"], package["version"]): package for package in metadata["packages"]}

    listed, without, texts = [], [], {}
    for crate in linked(name, host):
        package = packages[crate]
        title = " ".join(crate)
        licence = package["license"] or (package.get("license_file") and f"see {package['license_file']}")
        if not licence:
            print(f"{title} states no licence", file=sys.stderr)
            sys.exit(1)
        listed.append(f"{title}: {licence}")
        folder, files = licence_files(package)
        if not files:
            without.append(f"{title}: {licence}; {package['repository'] or package['homepage'] or 'no repository stated'}")
        for path in files:
            text = text_of(path)
            key = hashlib.sha256(text.encode()).hexdigest()
            texts.setdefault(key, (text, []))[1].append(f"{title}, {path.relative_to(folder).as_posix()}")

    out = [
        f"Crates that {name} links in on {host}, and their licences as their manifests state them.",
        standard_library(to),
        "",
        *listed,
        "",
        LINE,
        f"Crates whose packages have no licence text ({len(without)} of {len(listed)}): licence and repository as stated",
        "",
        *(without or ["none"]),
    ]
    for text, users in sorted(texts.values(), key=lambda entry: entry[1][0]):
        out += ["", LINE, *users, "", text.rstrip("\n")]
    (to / LIST).write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
