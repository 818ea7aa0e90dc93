#!/usr/bin/env python3
"""Writes src/data/tokenizer/unicode_ranges.cc from tests/golden/tokenizer/unicode_classes.json.

For maintainers: run from the repository's root after the JSON changed.
"""
import json

CLASSES = ["L", "M", "N", "P", "S", "s"]
classes = json.load(open("tests/golden/tokenizer/unicode_classes.json"))
ranges = sorted((first, last, CLASSES.index(c)) for c in CLASSES for first, last in classes[c])
with open("src/data/tokenizer/unicode_ranges.cc", "w") as out:
    out.write("// Made by scripts/make_unicode_tables.py; do not edit.\n"
              '#include "data/tokenizer/unicode.h"\n\n'
              "namespace nereus::data {\n\n// clang-format off\n"
              "const UnicodeRange kUnicodeRanges[] = {\n")
    for i in range(0, len(ranges), 8):
        out.write("    " + " ".join("{0x%x,0x%x,%d}," % r for r in ranges[i:i + 8]) + "\n")
    out.write("};\n// clang-format on\n\n"
              "const size_t kUnicodeRangeCount = sizeof(kUnicodeRanges) / sizeof(kUnicodeRanges[0]);\n\n"
              "}  // namespace nereus::data\n")
