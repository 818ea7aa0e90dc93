#include "doctor/finding.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace nereus::doctor {
namespace {

const char* word(Verdict v) {
  switch (v) {
    case Verdict::ok:
      return "ok";
    case Verdict::skipped:
      return "skipped";
    case Verdict::warning:
      return "warning";
    case Verdict::failed:
      return "FAILED";
  }
  return "";
}

std::string sum(const Report& r) {
  const int failed = r.count(Verdict::failed), warnings = r.count(Verdict::warning);
  const int skipped = r.count(Verdict::skipped);
  if (failed + warnings == 0)
    return fmt::format("{} check{}, nothing wrong, {} skipped", r.findings.size(),
                       r.findings.size() == 1 ? "" : "s", skipped);
  return fmt::format("{} checks: {} failed, {} warning{}, {} skipped", r.findings.size(), failed,
                     warnings, warnings == 1 ? "" : "s", skipped);
}

}  // namespace

int Report::count(Verdict verdict) const {
  return static_cast<int>(std::count_if(findings.begin(), findings.end(),
                                        [&](const Finding& f) { return f.verdict == verdict; }));
}

std::string table(const Report& r, bool brief) {
  std::string out = brief ? "" : fmt::format("{}, {}\n", r.host, r.time);
  const std::string margin = brief ? r.host + ": " : "  ";
  const auto shown = [&](const Finding& f) {
    return !brief || f.verdict == Verdict::warning || f.verdict == Verdict::failed;
  };
  size_t width = 0;
  for (const Finding& f : r.findings)
    if (shown(f)) width = std::max(width, f.check.size());
  for (const Finding& f : r.findings) {
    if (!shown(f)) continue;
    out += fmt::format("{}{:<8} {:<{}}  {}\n", margin, word(f.verdict), f.check, width, f.found);
    if (!f.remedy.empty())
      out += fmt::format("{}{:<8} {:<{}}  -> {}\n", margin, "", "", width, f.remedy);
  }
  return out + margin + sum(r) + "\n";
}

std::string json(const Report& r) {
  nlohmann::ordered_json out;
  out["host"] = r.host;
  out["time"] = r.time;
  out["failed"] = r.count(Verdict::failed);
  out["warnings"] = r.count(Verdict::warning);
  out["skipped"] = r.count(Verdict::skipped);
  out["findings"] = nlohmann::ordered_json::array();
  for (const Finding& f : r.findings) {
    nlohmann::ordered_json entry;
    entry["check"] = f.check;
    entry["verdict"] = f.verdict == Verdict::failed ? "failed" : word(f.verdict);
    entry["found"] = f.found;
    entry["remedy"] = f.remedy;
    out["findings"].push_back(entry);
  }
  // What a driver or a file system calls itself need not be UTF-8.
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace nereus::doctor
