// What a check of the machine found, and how it is shown.
#pragma once

#include <string>
#include <vector>

namespace nereus::doctor {

enum class Verdict {
  ok,
  skipped,  // not looked at, with the reason
  warning,  // a run will work, but slower or less surely than it could
  failed,   // a run will fail, or give what cannot be trusted
};

struct Finding {
  std::string check;  // "GPU 3 memory"
  Verdict verdict = Verdict::ok;
  std::string found;   // what was seen, with numbers
  std::string remedy;  // what to do; empty when nothing is to be done
};

struct Report {
  std::string host, time;  // "2026-01-31 12:00:00Z"
  std::vector<Finding> findings;

  int count(Verdict verdict) const;
};

// A line a finding, its remedy below, and the sum. `brief`: one line when nothing is wrong, else
// only what is, each line beginning with the host: for many nodes in one log.
std::string table(const Report&, bool brief);
std::string json(const Report&);

}  // namespace nereus::doctor
