// One body, two programs: a libFuzzer target (clang, -DNEREUS_LIBFUZZER) or a GoogleTest that
// replays tests/corpus/<name>/*, and every prefix and single-byte change of it, up to a bound.
//
//   NEREUS_FUZZ(safetensors_header, data) { ... data is std::span<const uint8_t> ... }
#pragma once

#include <cstdint>
#include <span>

#ifdef NEREUS_LIBFUZZER

#define NEREUS_FUZZ(name, data)                                           \
  static void fuzz_##name(std::span<const uint8_t> data);                 \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t n) { \
    fuzz_##name({bytes, n});                                              \
    return 0;                                                             \
  }                                                                       \
  static void fuzz_##name(std::span<const uint8_t> data)

#else

#include <gtest/gtest.h>

namespace nereus::test {
// Throws when the folder has no file: a fuzzer without a corpus would test nothing.
void replay_corpus(const char* name, void (*target)(std::span<const uint8_t>));
}  // namespace nereus::test

#define NEREUS_FUZZ(name, data)                                          \
  static void fuzz_##name(std::span<const uint8_t> data);                \
  TEST(Fuzz, name) { nereus::test::replay_corpus(#name, &fuzz_##name); } \
  static void fuzz_##name(std::span<const uint8_t> data)

#endif
