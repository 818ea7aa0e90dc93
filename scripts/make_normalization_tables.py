#!/usr/bin/env python3
"""Writes src/data/tokenizer/normalization_canonical.cc and normalization_compatible.cc: Unicode's
decompositions, compositions and combining classes as Hugging Face's normalizers have them.

For maintainers: pip install tokenizers==0.23.3, then run from the repository's root.
"""
import unicodedata

from tokenizers import normalizers

NFC, NFD, NFKD = (getattr(normalizers, name)().normalize_str for name in ("NFC", "NFD", "NFKD"))
POINTS = [c for c in range(0x80, 0x110000)
          if not 0xD800 <= c < 0xE000 and not 0xAC00 <= c <= 0xD7A3]  # Hangul by arithmetic


def hexes(text):
    return " ".join("%x" % ord(c) for c in text)


def combining(c):
    """The combining class, 0 where Hugging Face's table does not know it."""
    k = unicodedata.combining(chr(c))
    if k == 0:
        return 0
    probe = "a" + ("\u0301" + chr(c) if k == 1 else chr(c) + "\u0334")
    return k if k == 230 and c == 0x301 or NFD(probe) != probe else 0


def write(path, about, tables):
    with open(path, "w") as out:
        out.write("// Made by scripts/make_normalization_tables.py; do not edit.\n" + about +
                  '#include "data/tokenizer/normalization_tables.h"\n\nnamespace nereus::data {\n\n'
                  "// clang-format off\n")
        for name, entries in tables:
            out.write("const std::string_view %s[] = {\n" % name)
            line = ""
            for e in entries:
                if len(line) + len(e) > 92:
                    out.write('    "%s",\n' % line)
                    line = ""
                line += e
            out.write('    "%s"};\n' % line)
            out.write("const size_t %sCount = std::size(%s);\n" % (name, name))
        out.write("// clang-format on\n\n}  // namespace nereus::data\n")


canonical, compatible, pairs = [], [], []
for c in POINTS:
    ch = chr(c)
    d, k = NFD(ch), NFKD(ch)
    if d != ch:
        canonical.append("%x %s;" % (c, hexes(d)))
    if k != d:
        compatible.append("%x %s;" % (c, hexes(k)))
    parts = unicodedata.decomposition(ch).split()
    if len(parts) == 2 and not parts[0].startswith("<"):
        pair = "".join(chr(int(p, 16)) for p in parts)
        if NFC(pair) == ch:
            pairs.append("%s %x;" % (hexes(pair), c))
classes, first = [], None
for c in range(0x80, 0x110001):
    k = combining(c) if c < 0x110000 and not 0xD800 <= c < 0xE000 else 0
    if first is not None and (k != first[1]):
        classes.append("%x %x %x;" % (first[0], c - 1, first[1]))
        first = None
    if k and first is None:
        first = (c, k)
write("src/data/tokenizer/normalization_canonical.cc",
      "// A point and its full canonical decomposition; two points and what they compose to; a range\n"
      "// of points and its combining class.\n",
      [("kCanonical", canonical), ("kCompositions", pairs), ("kCombining", classes)])
write("src/data/tokenizer/normalization_compatible.cc",
      "// A point and its full compatibility decomposition, where it is not the canonical one.\n",
      [("kCompatible", compatible)])
