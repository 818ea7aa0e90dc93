#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "plan/pipeline_plan.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

constexpr double kLeft = 64, kRight = 150, kTop = 64, kRow = 30, kBar = 26, kBottom = 66;
constexpr size_t kMostBars = 100'000;
constexpr double kLeastWidth = 640, kMostWidth = 2400, kActionWidth = 24;

// A colour by what is done, lighter for a rank's later stages. Text on it is white or black.
struct Paint {
  const char* fill;
  const char* text;
};
Paint paint(Kind kind, bool later) {
  switch (kind) {
    case Kind::forward:
      return later ? Paint{"#9ecae9", "#000"} : Paint{"#3b6fa5", "#fff"};
    case Kind::backward:
      return later ? Paint{"#fdc08a", "#000"} : Paint{"#d9731a", "#fff"};
    case Kind::backward_input:
      return later ? Paint{"#f4a6a5", "#000"} : Paint{"#c23b3b", "#fff"};
    default:
      return later ? Paint{"#a9d6a0", "#000"} : Paint{"#3f8f3c", "#fff"};
  }
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string label(double x, double y, double size, const char* fill, const char* anchor,
                  const std::string& text) {
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:g}\" fill=\"{}\" "
      "text-anchor=\"{}\">{}</text>\n",
      x, y, size, fill, anchor, escaped(text));
}

// A bar with the number of the microbatch, where it fits.
std::string bar(double x, double y, double width, double height, const Paint& p, int microbatch) {
  std::string out = fmt::format(
      "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\"{}/>\n", x, y,
      width, height, p.fill, width > 4 ? " stroke=\"#fff\" stroke-width=\"0.6\"" : "");
  const std::string number = std::to_string(microbatch);
  const double size = std::min(11.0, height - 3);
  if (width >= 0.62 * size * static_cast<double>(number.size()) + 3)
    out += label(x + width / 2, y + height / 2 + 0.36 * size, size, p.text, "middle", number);
  return out;
}

std::string legend(double y, const Schedule& schedule, bool several_stages) {
  struct Entry {
    Kind kind;
    const char* text;
  };
  std::string out;
  double x = kLeft;
  for (const Entry& e :
       {Entry{Kind::forward, "forward"}, Entry{Kind::backward, "backward"},
        Entry{Kind::backward_input, "dgrad alone"}, Entry{Kind::backward_weight, "wgrad alone"}}) {
    const bool used = std::any_of(
        schedule.actions.begin(), schedule.actions.end(), [&](const std::vector<Action>& list) {
          return std::any_of(list.begin(), list.end(), [&](const Action& a) {
            return a.kind == e.kind || (a.kind == Kind::forward_backward &&
                                        (e.kind == Kind::forward || e.kind == Kind::backward));
          });
        });
    if (!used) continue;
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"14\" fill=\"{}\"/>\n",
                       x, y, paint(e.kind, false).fill);
    if (several_stages) {
      x += 15;
      out +=
          fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"14\" fill=\"{}\"/>\n",
                      x, y, paint(e.kind, true).fill);
    }
    out += label(x + 19, y + 11, 12, "#333", "start", e.text);
    x += 115;
  }
  if (several_stages)
    out += label(x, y + 11, 12, "#333", "start", "lighter: a rank's later stages");
  return out;
}

}  // namespace

std::string svg_of(const PipelinePlan& plan, const PipelinePlanOptions& options) {
  const Schedule& s = plan.schedule;
  const Simulation& sim = plan.simulation;
  const int v = plan.stages_per_rank;
  size_t most = 1, all = 0;
  for (const std::vector<Action>& list : s.actions) {
    const auto bars = static_cast<size_t>(
        std::count_if(list.begin(), list.end(), [](const Action& a) { return a.computes(); }));
    most = std::max(most, bars);
    all += bars;
  }
  NEREUS_CHECK(kConfig, all <= kMostBars,
               "--svg: {} actions are more than {}, which is what a picture can show: draw fewer "
               "microbatches.",
               all, kMostBars);
  const double plot = std::clamp(kActionWidth * static_cast<double>(most), kLeastWidth, kMostWidth);
  const double width = kLeft + plot + kRight, height = kTop + kRow * s.ranks() + kBottom;
  const double scale = plot / sim.makespan;

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"Helvetica, Arial, sans-serif\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      width, height);
  out += label(kLeft, 24, 16, "#000", "start",
               fmt::format("{}: {} ranks, {} stages, {} microbatches", s.name, s.ranks(),
                           s.stages(), s.microbatches));
  out += label(kLeft, 43, 12, "#333", "start",
               fmt::format("bubble {:.1f} %, peak activations {:.4g} microbatches of a rank's "
                           "blocks; forward {:g}, dgrad {:g}, wgrad {:g}",
                           100 * sim.bubble, sim.peak_activations(v), options.costs.forward,
                           options.costs.dgrad, options.costs.wgrad));
  out += label(kLeft + plot + 10, kTop - 8, 11, "#333", "start", "idle");
  out += label(kLeft + plot + 62, kTop - 8, 11, "#333", "start", "holds at most");

  for (int r = 0; r < s.ranks(); ++r) {
    const auto rank = static_cast<size_t>(r);
    const double y = kTop + kRow * r;
    out += label(kLeft - 8, y + kBar / 2 + 4, 12, "#333", "end", fmt::format("rank {}", r));
    out += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#eee\"/>\n",
        kLeft, y, plot, kBar);
    const std::vector<int> stages = s.stages_of(r);
    const auto later = [&](int stage) { return stage != stages.front(); };
    for (size_t i = 0; i < s.actions[rank].size(); ++i) {
      const Action& a = s.actions[rank][i];
      if (!a.computes()) continue;
      const Simulation::Span& span = sim.spans[rank][i];
      const double x = kLeft + span.begin * scale, w = (span.end - span.begin) * scale;
      if (a.kind == Kind::forward_backward) {
        out += bar(x, y, w, kBar / 2, paint(Kind::forward, later(a.stage)), a.microbatch);
        out += bar(x, y + kBar / 2, w, kBar / 2, paint(Kind::backward, later(a.backward_stage)),
                   a.backward_microbatch);
      } else {
        out += bar(x, y, w, kBar, paint(a.kind, later(a.stage)), a.microbatch);
      }
    }
    out += label(kLeft + plot + 10, y + kBar / 2 + 4, 11, "#333", "start",
                 fmt::format("{:.1f} %", 100 * (1 - sim.ranks[rank].busy / sim.makespan)));
    out += label(kLeft + plot + 62, y + kBar / 2 + 4, 11, "#333", "start",
                 fmt::format("{:.4g}", static_cast<double>(sim.ranks[rank].held_for_wgrad) / v));
  }
  const double axis = kTop + kRow * s.ranks() + 6;
  out += fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#999\"/>\n", kLeft,
      axis, kLeft + plot, axis);
  out += label(kLeft, axis + 14, 11, "#333", "start", "0");
  out +=
      label(kLeft + plot, axis + 14, 11, "#333", "end", fmt::format("time {:.5g}", sim.makespan));
  out += legend(axis + 26, s, v > 1);
  return out + "</svg>\n";
}

}  // namespace nereus
