// Which draws the composition test runs, and what their comparisons come to.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/compose_draw_test.h"

namespace nereus::compose {

// NEREUS_COMPOSE=NUMBER or NUMBER:COUNT; else the ordinary draws.
struct Numbers {
  static constexpr uint64_t kFirst = 1;
  static constexpr int kCount = 40;
  uint64_t first = kFirst;
  int count = kCount;
  bool asked = false;  // by the environment

  std::vector<uint64_t> all() const;
};
Numbers numbers();

struct Verdict {
  std::vector<std::string> wrong;
  bool tie = false;

  const char* word() const { return !wrong.empty() ? "WRONG" : tie ? "tie  " : "equal"; }
};

// Of compare(draw, noise), which gives what differs: nothing at all, a tie (with some noise it
// agrees), or what is wrong.
template <class Compare>
Verdict judge(const Draw& draw, const Compare& compare) {
  constexpr int kRetries = 3;
  Verdict v{.wrong = compare(draw, 0)};
  for (int noise = 1; noise <= kRetries && !v.wrong.empty() && !v.tie; ++noise)
    v.tie = compare(draw, noise).empty();
  if (v.tie) v.wrong.clear();
  return v;
}

// Counts verdicts and reports what is wrong; with a line for each where numbers were asked for.
// Ties are few.
class Report {
 public:
  void add(uint64_t number, const Verdict&);
  void end() const;

 private:
  Numbers numbers_ = numbers();
  int draws_ = 0, ties_ = 0;
};

// Steps that run again are part of the plan: no word of them.
struct Quiet {
  Quiet() { log::set_level(log::Level::error); }
  ~Quiet() { log::set_level(log::Level::info); }
};

// An exception is what is wrong with its draw.
template <class Compare>
void for_every_draw(const Compare& compare) {
  const Quiet quiet;
  Report report;
  for (const uint64_t number : numbers().all()) {
    Verdict v;
    try {
      v = judge(Draw(number), compare);
    } catch (const std::exception& e) {
      v.wrong = {e.what()};
    }
    report.add(number, v);
  }
  report.end();
}

}  // namespace nereus::compose
