#!/usr/bin/env python3
"""Wraps the lines of C sources that are past 120 columns, by clang-format, and touches no other line.

usage: wrap_lines.py FILE...
"""
import subprocess
import sys

COLUMNS, PASSES = 120, 4    # a wrapped line may itself need another pass


def long_lines(path):
    with open(path, encoding="utf-8") as file:
        return [number for number, line in enumerate(file, 1) if len(line.rstrip("\n")) > COLUMNS]


def main(paths):
    left = 0
    for path in paths:
        for _ in range(PASSES):
            lines = long_lines(path)
            if not lines:
                break
            subprocess.run(["clang-format", "-i", "--style=file"] + [f"--lines={n}:{n}" for n in lines] + [path], check=True)
        for number in long_lines(path):
            print(f"{path}:{number}: still too long, wrap it by hand")
            left += 1
    return 1 if left else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
