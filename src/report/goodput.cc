#include "report/goodput.h"

#include <algorithm>
#include <cmath>

namespace nereus::report {

const std::array<TimeParts::Part, 8>& TimeParts::parts() {
  static const std::array<Part, 8> kParts = {{
      {"counted", "steps that counted", &TimeParts::counted},
      {"again", "steps trained again after a restart", &TimeParts::again},
      {"rerun", "steps repeated for the experts' capacity", &TimeParts::rerun},
      {"saving", "saving", &TimeParts::saving},
      {"validating", "validation", &TimeParts::validating},
      {"set_up", "set-up", &TimeParts::set_up},
      {"down", "between starts", &TimeParts::down},
      {"other", "other", &TimeParts::other},
  }};
  return kParts;
}

Goodput goodput(const Run& run) {
  Goodput out;
  out.by_clock = !run.starts.empty();
  double before = kUnknown;  // the end of the start before
  for (const Start& s : run.starts) {
    TimeParts p;
    p.set_up = s.set_up;
    p.saving = s.saving;
    p.validating = s.validating;
    const double steps = std::max(0.0, s.training - s.stalled);
    p.again = std::min(steps, s.again);
    p.rerun = std::min(steps - p.again, s.rerun);
    p.counted = steps - p.again - p.rerun;
    if (s.begin > before) p.down = s.begin - before;
    if (s.end > s.begin)
      p.other = std::max(0.0, s.end - s.begin - (p.total() - p.down));
    else
      out.by_clock = false;
    if (!std::isnan(s.end)) before = s.end;
    for (const TimeParts::Part& part : TimeParts::parts()) out.all.*part.seconds += p.*part.seconds;
    out.starts.push_back(p);
  }
  return out;
}

}  // namespace nereus::report
