// Checks with a formatted message. For .cc files only: no header that a .cu file reaches includes
// fmt, which nvcc cannot compile.
#pragma once

#include <fmt/format.h>

#include "base/error.h"

// NEREUS_CHECK(kConfig, steps > 0, "training.steps = {}: must be at least 1", steps);
#define NEREUS_CHECK(fault, condition, ...)                                  \
  do {                                                                       \
    if (!(condition))                                                        \
      ::nereus::fail(::nereus::Fault::fault, #condition, __FILE__, __LINE__, \
                     ::fmt::format(__VA_ARGS__));                            \
  } while (false)

#define NEREUS_FAIL(fault, ...) \
  ::nereus::fail(::nereus::Fault::fault, "reached", __FILE__, __LINE__, ::fmt::format(__VA_ARGS__))
