#include "report/page.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <string_view>

#include "base/check.h"
#include "report/report_json.h"
#include "report/text.h"

#ifndef NEREUS_VERSION
#define NEREUS_VERSION "?"
#endif

namespace nereus::report {
namespace {

constexpr size_t kCurveBytes = 1'100'000;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string now() {
  const std::time_t t = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&t, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts)};
}

}  // namespace

std::string page(const std::vector<Run>& runs, std::optional<Window> window) {
  std::string title;
  for (const Run& run : runs) title += (title.empty() ? "" : ", ") + run.name;
  const std::pair<std::string_view, std::string> marks[] = {
      {"@TITLE@", escaped(title)},
      {"@PLOT_STYLE@", files::kPlotStyle},
      {"@STYLE@", files::kStyle},
      {"@TEXT@", escaped(text(runs, window))},
      {"@MADE@", fmt::format("nereus {}, {}", NEREUS_VERSION, now())},
      {"@DATA@", page_data(runs, window, kCurveBytes)},
      {"@PLOT_LICENSE@", files::kPlotLicense},
      {"@PLOT_SCRIPT@", files::kPlotScript},
      {"@SCRIPT@", files::kScript},
  };
  // One pass: what is put in is not looked at again.
  std::string out;
  std::string_view rest = files::kPage;
  for (const auto& [mark, content] : marks) {
    const size_t at = rest.find(mark);
    NEREUS_CHECK(kContract, at != std::string_view::npos, "page.html has no {}", mark);
    out += rest.substr(0, at);
    out += content;
    rest = rest.substr(at + mark.size());
  }
  out += rest;
  return out;
}

}  // namespace nereus::report
