// The parts of a master (ops/split_master.h) for one element, the same on host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/hostdevice.h"
#include "tensor/dtype.h"

namespace nereus::ops {

struct MasterParts {
  bf16 copy;
  int16_t remainder;
  bool tie_down;  // d = 2^15: a tie that was rounded towards zero
};

NEREUS_HD inline MasterParts split(float x) {
  const bf16 copy(x);
  uint32_t u;
  memcpy(&u, &x, 4);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  const uint32_t d = nan ? 0 : u - (uint32_t{copy.bits} << 16);
  return {copy, static_cast<int16_t>(d), d == 0x8000u};
}

NEREUS_HD inline float join(const MasterParts& p) {
  const uint32_t u = (uint32_t{p.copy.bits} << 16) + static_cast<uint32_t>(int32_t{p.remainder}) +
                     (p.tie_down ? 0x10000u : 0u);
  float x;
  memcpy(&x, &u, 4);
  return x;
}

NEREUS_HD inline bool negative(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return (u >> 31) != 0;
}

NEREUS_HD inline float magnitude(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  u &= 0x7fffffffu;
  memcpy(&v, &u, 4);
  return v;
}

NEREUS_HD inline float with_sign(float v, bool minus) {  // of a v that has none
  uint32_t u;
  memcpy(&u, &v, 4);
  u |= minus ? 0x80000000u : 0u;
  memcpy(&v, &u, 4);
  return v;
}

}  // namespace nereus::ops
