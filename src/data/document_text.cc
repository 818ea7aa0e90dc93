#include "data/document_text.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/utf8.h"

namespace nereus::data {
namespace {

using nlohmann::json;

// The four hexadecimal digits of a \u escape at `at`; -1: there is none.
int escaped_unit(std::string_view line, size_t at) {
  if (line.size() < at + 6 || line[at] != '\\' || line[at + 1] != 'u') return -1;
  int unit = 0;
  for (const char c : line.substr(at + 2, 4)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return -1;
    unit = unit * 16 + digit;
  }
  return unit;
}

bool is_high(int unit) { return unit >= 0xD800 && unit < 0xDC00; }
bool is_low(int unit) { return unit >= 0xDC00 && unit < 0xE000; }

// As JSON has numbers, however large.
bool is_number(std::string_view word) {
  size_t at = 0;
  const auto digits = [&] {
    const size_t begin = at;
    while (at < word.size() && word[at] >= '0' && word[at] <= '9') ++at;
    return at - begin;
  };
  if (word.starts_with('-')) ++at;
  const bool zero = at < word.size() && word[at] == '0';
  const size_t whole = digits();
  if (whole == 0 || (zero && whole > 1)) return false;
  if (at < word.size() && word[at] == '.') {
    ++at;
    if (digits() == 0) return false;
  }
  if (at < word.size() && (word[at] == 'e' || word[at] == 'E')) {
    ++at;
    if (at < word.size() && (word[at] == '+' || word[at] == '-')) ++at;
    if (digits() == 0) return false;
  }
  return at == word.size();
}

// What Python's json accepts beyond the standard, in the standard's terms: NaN and the infinities
// become null, numbers 0 (one may be too large), lone surrogates U+FFFD.
std::string to_standard_json(std::string_view line, int64_t& replaced) {
  std::string out;
  out.reserve(line.size() + 16);
  bool in_string = false;
  for (size_t at = 0; at < line.size();) {
    const char c = line[at];
    size_t count = 1;
    if (in_string && c == '\\') {
      const int unit = escaped_unit(line, at);
      count = unit >= 0 ? 6 : std::min<size_t>(2, line.size() - at);
      if (is_high(unit) && is_low(escaped_unit(line, at + 6))) {
        count = 12;
      } else if (is_high(unit) || is_low(unit)) {
        out += "\\ufffd";
        ++replaced;
        at += count;
        continue;
      }
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '-' || c == 'N' || c == 'I' || (c >= '0' && c <= '9'))) {
      const size_t end =
          std::min(line.find_first_not_of("+-.0123456789eENaIinfty", at), line.size());
      const std::string_view word = line.substr(at, end - at);
      at = end;
      if (word == "NaN" || word == "Infinity" || word == "-Infinity") {
        out += "null";
      } else {
        out += is_number(word) ? std::string_view("0") : word;
      }
      continue;
    }
    out += line.substr(at, count);
    at += count;
  }
  return out;
}

std::string names_of(const json& object) {
  constexpr size_t kMost = 12;
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) {
    if (names.size() == kMost) {
      names.emplace_back("...");
      break;
    }
    names.push_back(name.substr(0, 40));
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

// nlohmann's message from "parse error" on, without its number and the bytes it last read.
std::string reason_of(const json::exception& e) {
  std::string what = e.what();
  if (const size_t end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
  if (const size_t last = what.find("; last read"); last != std::string::npos) {
    const size_t expected = what.rfind("; expected");
    what = what.substr(0, last) +
           (expected != std::string::npos && expected > last ? what.substr(expected) : "");
  }
  constexpr size_t kMost = 160;
  return what.size() > kMost ? what.substr(0, kMost) + "..." : what;
}

}  // namespace

DocumentText read_document(const std::string& line) {
  using enum DocumentText::Skipped;
  DocumentText out;
  // nlohmann rejects ill-formed UTF-8, so it is replaced first.
  const bool valid = is_valid_utf8(line);
  const std::string mended = valid ? std::string() : replace_invalid_utf8(line, &out.replaced);
  const std::string& utf8 = valid ? line : mended;
  json object = json::parse(utf8, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) {
    int64_t surrogates = 0;
    try {
      object = json::parse(to_standard_json(utf8, surrogates));
      out.replaced += surrogates;
    } catch (const json::exception& e) {
      out.skipped = not_json;
      out.why = reason_of(e);
      return out;
    }
  }
  if (!object.is_object()) {
    out.skipped = no_text;
    out.why = fmt::format("it is no object but of type {}", object.type_name());
    return out;
  }
  const auto text = object.find("text");
  if (text != object.end() && text->is_string()) {
    out.text = std::move(text->get_ref<std::string&>());
    return out;
  }
  out.skipped = no_text;
  out.why = text == object.end() ? fmt::format("the keys that are there: {}", names_of(object))
                                 : fmt::format("its \"text\" is of type {}", text->type_name());
  return out;
}

}  // namespace nereus::data
