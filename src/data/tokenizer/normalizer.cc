#include "data/tokenizer/normalizer.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/normalization_tables.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

constexpr char32_t kPoints = 0x110000;
// Hangul: a syllable is a leading consonant, a vowel, and perhaps a trailing consonant.
constexpr char32_t kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7, kSyllable = 0xAC00;
constexpr char32_t kLeads = 19, kVowels = 21, kTrails = 28, kSyllables = kLeads * kVowels * kTrails;

bool is_syllable(char32_t c) { return c >= kSyllable && c < kSyllable + kSyllables; }

// Calls entry(numbers) for each entry of a table.
template <class Entry>
void read_table(const std::string_view* lines, size_t count, const Entry& entry) {
  std::vector<char32_t> numbers;
  for (const std::string_view line : std::span(lines, count)) {
    for (size_t at = 0; at < line.size(); ++at) {
      uint32_t number = 0;
      const char* begin = line.data() + at;
      const char* end = std::from_chars(begin, line.data() + line.size(), number, 16).ptr;
      numbers.push_back(number);
      at += static_cast<size_t>(end - begin);
      if (line[at] != ';') continue;
      entry(numbers);
      numbers.clear();
    }
  }
}

uint64_t pair_key(char32_t a, char32_t b) { return uint64_t{a} << 32 | b; }

}  // namespace

struct Normalizer::Tables {
  struct Span {
    uint32_t begin, count;
  };

  explicit Tables(NormalForm form)
      : composes(form == NormalForm::nfc || form == NormalForm::nfkc), may_change(kPoints) {
    const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
    const auto decompose = [&](const std::vector<char32_t>& n) {
      decompositions[n[0]] = {static_cast<uint32_t>(parts.size()),
                              static_cast<uint32_t>(n.size() - 1)};
      parts.insert(parts.end(), n.begin() + 1, n.end());
      may_change[n[0]] = true;
    };
    read_table(kCanonical, kCanonicalCount, decompose);
    if (composes) {
      read_table(kCompositions, kCompositionsCount, [&](const std::vector<char32_t>& n) {
        compositions[pair_key(n[0], n[1])] = n[2];
        may_change[n[2]] = false;  // it would be composed again
      });
      for (const auto& [pair, both] : compositions) may_change[static_cast<uint32_t>(pair)] = true;
      std::fill_n(may_change.begin() + kVowel, kVowels, true);
      std::fill_n(may_change.begin() + kTrail, kTrails, true);
    } else {
      std::fill_n(may_change.begin() + kSyllable, kSyllables, true);
    }
    if (compatible) read_table(kCompatible, kCompatibleCount, decompose);
    read_table(kCombining, kCombiningCount, [&](const std::vector<char32_t>& n) {
      for (char32_t c = n[0]; c <= n[1]; ++c) {
        combining[c] = static_cast<uint8_t>(n[2]);
        may_change[c] = true;
      }
    });
  }

  uint8_t class_of(char32_t c) const {
    if (c < 0x300) return 0;
    const auto found = combining.find(c);
    return found == combining.end() ? 0 : found->second;
  }

  void append(char32_t c, std::vector<char32_t>& out) const {
    if (is_syllable(c)) {
      const char32_t i = c - kSyllable;
      out.push_back(kLead + i / (kVowels * kTrails));
      out.push_back(kVowel + i / kTrails % kVowels);
      if (i % kTrails != 0) out.push_back(kTrail + i % kTrails);
    } else if (const auto found = decompositions.find(c); found != decompositions.end()) {
      const auto begin = parts.begin() + found->second.begin;
      out.insert(out.end(), begin, begin + found->second.count);
    } else {
      out.push_back(c);
    }
  }

  // What the two compose to, or 0.
  char32_t compose(char32_t a, char32_t b) const {
    if (a >= kLead && a < kLead + kLeads && b >= kVowel && b < kVowel + kVowels)
      return kSyllable + ((a - kLead) * kVowels + (b - kVowel)) * kTrails;
    if (is_syllable(a) && (a - kSyllable) % kTrails == 0 && b > kTrail && b < kTrail + kTrails)
      return a + (b - kTrail);
    if (b < 0x300 || !may_change[b]) return 0;  // nothing ends in it
    const auto found = compositions.find(pair_key(a, b));
    return found == compositions.end() ? 0 : found->second;
  }

  // Marks between two starters go in the order of their classes.
  void order(std::vector<char32_t>& points) const {
    for (size_t i = 0; i < points.size();) {
      if (class_of(points[i]) == 0) {
        ++i;
        continue;
      }
      size_t end = i + 1;
      while (end < points.size() && class_of(points[end]) != 0) ++end;
      std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(i),
                       points.begin() + static_cast<std::ptrdiff_t>(end),
                       [this](char32_t a, char32_t b) { return class_of(a) < class_of(b); });
      i = end;
    }
  }

  // A mark joins the last starter unless one of its own class or higher stands between.
  void compose(std::vector<char32_t>& points) const {
    size_t out = 0, starter = 0;
    bool any = false;   // is there a starter?
    int previous = -1;  // the class of what stands after it; -1: nothing
    for (const char32_t c : points) {
      const int k = class_of(c);
      if (any && previous < k) {
        if (const char32_t both = compose(points[starter], c)) {
          points[starter] = both;
          continue;
        }
      }
      if (k == 0) {
        starter = out;
        any = true;
        previous = -1;
      } else {
        previous = k;
      }
      points[out++] = c;
    }
    points.resize(out);
  }

  bool composes;
  std::vector<bool> may_change;  // text without such points is as it should be
  std::unordered_map<char32_t, Span> decompositions;
  std::vector<char32_t> parts;
  std::unordered_map<uint64_t, char32_t> compositions;
  std::unordered_map<char32_t, uint8_t> combining;
};

Normalizer::Normalizer(NormalForm form) : tables_(std::make_unique<Tables>(form)) {}
Normalizer::~Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;

std::string_view Normalizer::run(std::string_view text, std::string& out) const {
  bool as_it_is = true;
  for (size_t at = 0; at < text.size() && as_it_is;) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const CodePoint c = decode_utf8(text.substr(at));
    as_it_is = !tables_->may_change[c.value];
    at += static_cast<size_t>(c.length);
  }
  if (as_it_is) return text;
  std::vector<char32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text.substr(at));
    at += static_cast<size_t>(c.length);
    if (c.value < 0x80) {
      points.push_back(c.value);
    } else {
      tables_->append(c.value, points);
    }
  }
  tables_->order(points);
  if (tables_->composes) tables_->compose(points);
  out.clear();
  for (const char32_t c : points) append_utf8(c, out);
  return out;
}

}  // namespace nereus::data
