// Bounds on what may be asked for: beyond them a number is a slip, and would be tried for long.
#pragma once

namespace nereus {

inline constexpr int kMostRanks = 1 << 20;

}  // namespace nereus
