#include "report/comparison.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace nereus::report {
namespace {

// How far apart two numbers of a source may be and stand for the same one: a log has four decimals,
// event files 32 bits.
double rounding(Source source, double x) {
  if (source == Source::torchtitan) return 5.1e-5;
  return source == Source::tensorboard ? 1e-7 * std::abs(x) : 0;
}

Comparison::Pair compare(const Run& a, const Run& b) {
  Comparison::Pair out;
  const auto same = [&](double x, double y) {
    return x == y || std::abs(x - y) <= rounding(a.source, x) + rounding(b.source, y);
  };
  size_t i = 0;
  for (const LoggedStep& s : b.logged) {
    while (i < a.logged.size() && a.logged[i].step < s.step) ++i;
    if (i == a.logged.size()) break;
    const LoggedStep& r = a.logged[i];
    if (r.step != s.step) continue;
    if (out.norm_step < 0 && std::isfinite(r.grad_norm) && std::isfinite(s.grad_norm) &&
        !same(r.grad_norm, s.grad_norm))
      out.norm_step = s.step;
    const bool known = !std::isnan(r.loss) || !std::isnan(s.loss);
    if (!known) continue;
    ++out.common;
    if (same(r.loss, s.loss)) continue;
    if (out.first_step < 0) {
      out.first_step = s.step;
      out.loss_a = r.loss;
      out.loss_b = s.loss;
    }
    const double apart = std::abs(r.loss - s.loss) / std::max(std::abs(r.loss), 1e-30);
    if (!(apart < 0.01) && out.one_percent < 0) out.one_percent = s.step;
    if (std::isfinite(apart) && apart > out.largest) {
      out.largest = apart;
      out.largest_step = s.step;
    }
  }
  return out;
}

bool of_model(const std::string& key) {
  return key.starts_with("model.flavor") || key.starts_with("model.name") ||
         key.starts_with("model_overrides.") || key.starts_with("model.hf_config") ||
         key.starts_with("model.torchtitan_args");
}

}  // namespace

Comparison compare(const std::vector<Run>& runs) {
  Comparison out;
  std::vector<std::string> order;
  std::set<std::string> known;
  for (const Run& run : runs)
    for (const Setting& s : run.settings)
      if (known.insert(s.key).second) order.push_back(s.key);
  for (const std::string& key : order) {
    if (key == "job.dump_folder" || key == "job.config_file") continue;
    Comparison::Row row{.key = key, .values = {}};
    for (const Run& run : runs) row.values.push_back(run.setting(key));
    // A run whose settings are not known differs in none.
    std::set<std::string> different;
    for (size_t i = 0; i < runs.size(); ++i)
      if (!runs[i].settings.empty()) different.insert(row.values[i]);
    if (different.size() < 2) continue;
    out.models_differ = out.models_differ || of_model(key);
    out.settings.push_back(std::move(row));
  }
  std::set<std::string> models;
  for (const Run& run : runs)
    if (!run.model.empty()) models.insert(run.model);
  out.models_differ = out.models_differ || models.size() > 1;
  for (size_t i = 1; i < runs.size(); ++i) out.pairs.push_back(compare(runs[0], runs[i]));
  return out;
}

}  // namespace nereus::report
