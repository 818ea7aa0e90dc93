#include "test/sha256.h"

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

namespace nereus::test {
namespace {

// The first 32 bits of the fractional parts of the square or cube roots of the first primes
// (FIPS 180-4): in integers, so that no rounding can matter.
template <size_t N>
std::array<uint32_t, N> root_bits(int root) {
  std::array<uint32_t, N> out{};
  size_t found = 0;
  for (uint32_t p = 2; found < N; ++p) {
    bool prime = true;
    for (uint32_t d = 2; d * d <= p; ++d) prime = prime && p % d != 0;
    if (!prime) continue;
    // The largest x with x^root <= p * 2^(32 root); its low 32 bits are the fraction.
    uint64_t x = 0;
    for (int bit = 36; bit >= 0; --bit) {
      const auto y = static_cast<unsigned __int128>(x | uint64_t{1} << bit);
      const bool fits = root == 2 ? y * y <= static_cast<unsigned __int128>(p) << 64
                                  : y * y <= (static_cast<unsigned __int128>(p) << 96) / y;
      if (fits) x |= uint64_t{1} << bit;
    }
    out[found++] = static_cast<uint32_t>(x);
  }
  return out;
}

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
  static const auto k = root_bits<64>(3);
  std::array<uint32_t, 8> h = root_bits<8>(2);
  std::vector<uint8_t> data(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) data[i] = static_cast<uint8_t>(bytes[i]);
  data.push_back(0x80);
  while (data.size() % 64 != 56) data.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8)
    data.push_back(static_cast<uint8_t>(uint64_t{bytes.size()} * 8 >> shift));

  for (size_t block = 0; block < data.size(); block += 64) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i) w[i / 4] = w[i / 4] << 8 | data[block + i];
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::array<uint32_t, 8> s = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 = s[7] + (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const uint32_t t2 = (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) +
                          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string out;
  for (const uint32_t word : h)
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 0xF];
  return out;
}

}  // namespace nereus::test
