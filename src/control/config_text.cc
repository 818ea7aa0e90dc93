#include "control/config_text.h"

#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace nereus {
namespace {

using Pairs = std::vector<std::pair<std::string_view, std::string_view>>;

Pairs pairs_of(std::string_view text) {
  Pairs out;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.empty()) continue;
    const size_t equals = std::min(line.find('='), line.size());
    out.emplace_back(line.substr(0, equals), line.substr(std::min(equals + 1, line.size())));
  }
  return out;
}

std::string differ(std::string_view key, const std::string& a, const std::string& b,
                   const std::string& who_a, const std::string& who_b) {
  return fmt::format(
      "the ranks have different configurations: {} is {} for {}, and {} for {}.\n  Start all ranks "
      "with the same configuration file and overrides.",
      key, a, who_a, b, who_b);
}

}  // namespace

std::string first_difference(const std::string& a, const std::string& b, const std::string& who_a,
                             const std::string& who_b) {
  if (a == b) return "";
  const Pairs in_a = pairs_of(a), in_b = pairs_of(b);
  const std::map<std::string_view, std::string_view> by_a(in_a.begin(), in_a.end()),
      by_b(in_b.begin(), in_b.end());
  const auto quoted = [](std::string_view s) { return fmt::format("\"{}\"", s); };
  for (const auto& [key, value] : in_a) {
    const auto other = by_b.find(key);
    if (other == by_b.end()) return differ(key, quoted(value), "not set", who_a, who_b);
    if (other->second != value)
      return differ(key, quoted(value), quoted(other->second), who_a, who_b);
  }
  for (const auto& [key, value] : in_b)
    if (!by_a.contains(key)) return differ(key, "not set", quoted(value), who_a, who_b);
  return "";
}

}  // namespace nereus
