#include "engine/compose_judge_test.h"

#include <cstdlib>
#include <numeric>

#include "base/check.h"

namespace nereus::compose {

std::vector<uint64_t> Numbers::all() const {
  std::vector<uint64_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

Numbers numbers() {
  const char* const text = std::getenv("NEREUS_COMPOSE");
  if (text == nullptr) return {};
  char* end = nullptr;
  Numbers out{.first = std::strtoull(text, &end, 10), .count = 1, .asked = true};
  if (*end == ':') out.count = static_cast<int>(std::strtol(end + 1, &end, 10));
  NEREUS_CHECK(kConfig, *end == 0 && out.count > 0, "NEREUS_COMPOSE={}: NUMBER or NUMBER:COUNT",
               text);
  return out;
}

void Report::add(uint64_t number, const Verdict& v) {
  const Draw draw(number);
  ++draws_;
  ties_ += v.tie;
  if (numbers_.asked) fmt::print("{} {} | {}\n", number, v.word(), draw.to_string());
  if (!v.wrong.empty())
    ADD_FAILURE() << "draw " << number << " (NEREUS_COMPOSE=" << number
                  << " runs it alone): " << draw.to_string() << "\n  "
                  << fmt::format("{}", fmt::join(v.wrong, "\n  "));
}

void Report::end() const {
  EXPECT_LE(ties_, 2 + draws_ / 20);
  if (numbers_.asked) fmt::print("{} draws, {} ties\n", draws_, ties_);
}

}  // namespace nereus::compose
