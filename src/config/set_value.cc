#include "config/set_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "base/check.h"
#include "base/suggest.h"
#include "base/text.h"

namespace nereus {
namespace {

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

// Calls f with the pointer of a target that is one; a choice has been checked when it was set.
template <class F>
void visit_pointer(const Key::Target& target, F f) {
  std::visit(
      [&](const auto& t) {
        if constexpr (std::is_pointer_v<std::remove_cvref_t<decltype(t)>>) f(t);
      },
      target);
}

template <class T>
bool parse_number(const std::string& text, T& out) {
  const bool plus = text.size() > 1 && text[0] == '+' && text[1] != '-';
  const char *begin = text.data() + (plus ? 1 : 0), *end = text.data() + text.size();
  const auto [last, error] = std::from_chars(begin, end, out);
  return error == std::errc() && last == end && begin != end;
}

bool parse_bool(const std::string& text, bool& out) {
  if (text == "true" || text == "True") return out = true, true;
  if (text == "false" || text == "False") return out = false, true;
  return false;
}

Strings split(const std::string& text) {
  Strings out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

bool parse(const std::string& text, bool& out) { return parse_bool(text, out); }
bool parse(const std::string& text, int64_t& out) { return parse_number(text, out); }
bool parse(const std::string& text, double& out) { return parse_number(text, out); }
bool parse(const std::string& text, std::string& out) { return out = text, true; }

// TorchTitan's sentence with the value in it, on a line of its own; or nothing.
std::string sentence_of(const Key& key, const std::string& value) {
  if (key.sentence.empty()) return "";
  return fmt::format(fmt::runtime(key.sentence), value) + "\n  ";
}

void check_choice(const Key& key, const std::string& value, const std::string& where) {
  if (key.allowed.empty() ||
      std::find(key.allowed.begin(), key.allowed.end(), value) != key.allowed.end())
    return;
  std::string near = nearest(value, key.allowed);
  for (const std::string& allowed : key.allowed)
    if (lower(allowed) == lower(value)) near = allowed;
  NEREUS_FAIL(kConfig, "{}{}: {} = \"{}\": it must be {}{}{}", sentence_of(key, value), where,
              key.name, value, key.allowed.size() > 1 ? "one of " : "",
              fmt::join(key.allowed, ", "),
              near.empty() ? "" : fmt::format("; did you mean {}?", near));
}

void check_integer(const Key& key, int64_t value, const std::string& where) {
  if (key.or_minus_one && value == -1) return;
  NEREUS_CHECK(kConfig, value >= key.minimum, "{}{}: {} = {}: it must be at least {}{}",
               sentence_of(key, std::to_string(value)), where, key.name, value, key.minimum,
               key.or_minus_one ? ", or -1" : "");
  NEREUS_CHECK(kConfig, value <= key.maximum, "{}: {} = {}: it must be at most {}", where, key.name,
               value, key.maximum);
}

void check_float(const Key& key, double value, const std::string& where) {
  const bool low = key.above_lowest ? value <= key.lowest : value < key.lowest;
  const bool high = key.below_highest ? value >= key.highest : value > key.highest;
  if (!std::isnan(value) && !low && !high) return;
  const std::string rule = float_rule(key);
  NEREUS_FAIL(kConfig, "{}: {} = {}: it must be {}{}", where, key.name, value,
              std::isfinite(value) ? ""
              : rule.empty()       ? "finite"
                                   : "finite and ",
              rule);
}

}  // namespace

std::string float_rule(const Key& key) {
  constexpr double kMost = std::numeric_limits<double>::max();
  Strings rules;
  if (key.lowest > -kMost)
    rules.push_back(
        fmt::format("{} {}", key.above_lowest ? "greater than" : "at least", key.lowest));
  if (key.highest < kMost)
    rules.push_back(fmt::format("{} {}", key.below_highest ? "below" : "at most", key.highest));
  return fmt::format("{}", fmt::join(rules, " and "));
}

void fail_type(const Key& key, const std::string& given, const std::string& where) {
  NEREUS_FAIL(kConfig, "{}: {} = {}: it must be {} {}", where, key.name, given,
              std::string("aeio").find(type_name(key)[0]) != std::string::npos ? "an" : "a",
              type_name(key));
}

void set_words(const Key& key, const Choice& choice, const Strings& words,
               const std::string& where) {
  for (const std::string& w : words) check_choice(key, w, where);
  choice.set_words(words);
}

void set_from_text(const Key& key, const std::string& text, const std::string& where, bool append) {
  if (const auto* choice = std::get_if<Choice>(&key.target)) {
    Strings words;
    if (choice->form == Choice::Form::list) {
      if (append) words = choice->get();
      for (std::string& item : split(text)) words.push_back(std::move(item));
    } else if (choice->form == Choice::Form::one || (text != "None" && !text.empty())) {
      words = {text};
    }
    return set_words(key, *choice, words, where);
  }
  visit_pointer(key.target, [&](auto* target) {
    using T = std::remove_pointer_t<decltype(target)>;
    if constexpr (std::is_same_v<T, Strings>) {
      if (!append) target->clear();
      for (std::string& item : split(text)) target->push_back(std::move(item));
    } else if constexpr (std::is_same_v<T, Integers>) {
      if (!append) target->clear();
      for (const std::string& item : split(text)) {
        int64_t value = 0;
        if (!parse(item, value)) fail_type(key, text, where);
        target->push_back(value);
      }
    } else if constexpr (std::is_same_v<T, std::optional<std::vector<Strings>>>) {
      if (text == "None") {
        target->reset();
        return;
      }
      if (!append || !*target) target->emplace();
      (*target)->push_back(split(text));
    } else if constexpr (IsOptional<T>::value) {
      if (text == "None") {
        target->reset();
        return;
      }
      typename T::value_type value{};
      if (!parse(text, value)) fail_type(key, text, where);
      *target = value;
      drop_empty(*target);
    } else if (!parse(text, *target)) {
      fail_type(key, text, where);
    }
  });
  check_value(key, where);
}

void check_value(const Key& key, const std::string& where) {
  if (auto* const* text = std::get_if<std::string*>(&key.target); text != nullptr && key.any_case)
    for (const std::string& allowed : key.allowed)
      if (lower(allowed) == lower(**text)) **text = allowed;
  visit_pointer(key.target, [&](const auto* target) {
    using T = std::remove_cvref_t<decltype(*target)>;
    const auto check_one = [&](const auto& value) {
      using V = std::remove_cvref_t<decltype(value)>;
      if constexpr (std::is_same_v<V, int64_t>) check_integer(key, value, where);
      if constexpr (std::is_same_v<V, double>) check_float(key, value, where);
      if constexpr (std::is_same_v<V, std::string>) check_choice(key, value, where);
    };
    if constexpr (std::is_same_v<T, Strings> || std::is_same_v<T, Integers>) {
      for (const auto& item : *target) check_one(item);
    } else if constexpr (IsOptional<T>::value) {
      if constexpr (!std::is_same_v<T, std::optional<std::vector<Strings>>>)
        if (*target) check_one(**target);
    } else {
      check_one(*target);
    }
  });
}

}  // namespace nereus
