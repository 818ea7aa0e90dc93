#include "device/host_cores.h"

#include <charconv>

namespace nereus {

std::vector<int> parse_core_list(const std::string& text) {
  std::vector<int> cores;
  const char *at = text.data(), *const end = at + text.size();
  const auto number = [&](int& n) {
    const auto [next, error] = std::from_chars(at, end, n);
    if (error != std::errc() || n < 0) return false;
    at = next;
    return true;
  };
  while (at != end && *at != '\n') {
    int first = 0, last = 0;
    if (!number(first)) return {};
    last = first;
    if (at != end && *at == '-') {
      ++at;
      if (!number(last) || last < first) return {};
    }
    for (int c = first; c <= last; ++c) cores.push_back(c);
    if (at != end && *at == ',') ++at;
  }
  return cores;
}

std::string core_list_text(const std::vector<int>& cores) {
  std::string text;
  for (size_t i = 0; i < cores.size();) {
    size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    if (!text.empty()) text += ",";
    text += std::to_string(cores[i]);
    if (last > i) text += "-" + std::to_string(cores[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace nereus
