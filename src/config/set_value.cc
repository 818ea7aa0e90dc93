#include "config/set_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "base/check.h"
#include "base/suggest.h"

namespace nereus {
namespace {

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <class T>
bool parse_number(const std::string& text, T& out) {
  const char *begin = text.data(), *end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  const auto [last, error] = std::from_chars(begin, end, out);
  return error == std::errc() && last == end && !text.empty();
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

void check_choice(const Key& key, const std::string& value, const std::string& where) {
  if (key.allowed.empty() ||
      std::find(key.allowed.begin(), key.allowed.end(), value) != key.allowed.end())
    return;
  // TorchTitan's own sentences, which users search for.
  const std::string sentence =
      key.name == "activation_checkpoint.mode" ? fmt::format(
                                                     "Invalid AC mode: {}. Valid modes: ('full', "
                                                     "'selective')\n  ",
                                                     value)
      : key.name == "parallelism.fsdp_reshard_after_forward"
          ? fmt::format("Invalid reshard_after_forward_policy: {}.\n  ", value)
          : "";
  const std::string near = nearest(value, key.allowed);
  NEREUS_FAIL(kConfig, "{}{}: {} = \"{}\": it must be one of {}{}", sentence, where, key.name,
              value, fmt::join(key.allowed, ", "),
              near.empty() ? "" : fmt::format("; did you mean {}?", near));
}

void check_integer(const Key& key, int64_t value, const std::string& where) {
  if (value >= key.minimum || (key.or_minus_one && value == -1)) return;
  NEREUS_FAIL(kConfig, "{}: {} = {}: it must be at least {}{}", where, key.name, value, key.minimum,
              key.or_minus_one ? ", or -1" : "");
}

void check_float(const Key& key, double value, const std::string& where) {
  const bool high = value > key.maximum ||
                    (key.maximum == 1 && value >= 1 && key.name.find("beta") != std::string::npos);
  const bool low = (key.positive && !(value > 0)) || (key.non_negative && !(value >= 0));
  if (!std::isnan(value) && !high && !low) return;
  std::string rule = key.positive ? "greater than 0" : "at least 0";
  if (std::isfinite(key.maximum))
    rule +=
        fmt::format(" and {} {}", key.name.find("beta") != std::string::npos ? "below" : "at most",
                    key.maximum);
  NEREUS_FAIL(kConfig, "{}: {} = {}: it must be {}", where, key.name, value, rule);
}

}  // namespace

void fail_type(const Key& key, const std::string& given, const std::string& where) {
  NEREUS_FAIL(kConfig, "{}: {} = {}: it must be {} {}", where, key.name, given,
              std::string("aeio").find(type_name(key)[0]) != std::string::npos ? "an" : "a",
              type_name(key));
}

void set_from_text(const Key& key, const std::string& text, const std::string& where, bool append) {
  std::visit(
      [&](auto* target) {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (std::is_same_v<T, Strings>) {
          if (!append) target->clear();
          for (std::string& item : split(text)) target->push_back(std::move(item));
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
        } else if (!parse(text, *target)) {
          fail_type(key, text, where);
        }
      },
      key.target);
  check_value(key, where);
}

void check_value(const Key& key, const std::string& where) {
  std::visit(
      [&](const auto* target) {
        using T = std::remove_cvref_t<decltype(*target)>;
        const auto check_one = [&](const auto& value) {
          using V = std::remove_cvref_t<decltype(value)>;
          if constexpr (std::is_same_v<V, int64_t>) check_integer(key, value, where);
          if constexpr (std::is_same_v<V, double>) check_float(key, value, where);
          if constexpr (std::is_same_v<V, std::string>) check_choice(key, value, where);
        };
        if constexpr (std::is_same_v<T, Strings>) {
          for (const std::string& item : *target) check_one(item);
        } else if constexpr (IsOptional<T>::value) {
          if (*target) check_one(**target);
        } else {
          check_one(*target);
        }
      },
      key.target);
}

}  // namespace nereus
