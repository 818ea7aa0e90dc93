#include "comm/host_reduce.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace nereus {
namespace {

template <class E>
E add(E a, E b) {
  if constexpr (std::is_integral_v<E>) {
    using U = std::make_unsigned_t<E>;  // wraps instead of being undefined
    return static_cast<E>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <class E>
E greater(E a, E b) {
  return a > b || a != a ? a : b;
}

// E as stored, A as summed. Panels keep the running sums in the first cache while each rank's
// elements pass by once, so that the cost does not depend on how far apart the ranks' memory is.
template <class E, class A, bool kSum>
void reduce(std::byte* out, std::span<const std::byte* const> inputs, int64_t count) {
  constexpr int64_t kPanel = 1024;
  std::array<A, kPanel> panel;
  for (int64_t begin = 0; begin < count; begin += kPanel) {
    const int64_t n = std::min(kPanel, count - begin);
    const E* first = reinterpret_cast<const E*>(inputs[0]) + begin;
    for (int64_t i = 0; i < n; ++i) panel[static_cast<size_t>(i)] = static_cast<A>(first[i]);
    for (const std::byte* input : inputs.subspan(1)) {
      const E* x = reinterpret_cast<const E*>(input) + begin;
      for (int64_t i = 0; i < n; ++i) {
        A& a = panel[static_cast<size_t>(i)];
        a = kSum ? add(a, static_cast<A>(x[i])) : greater(a, static_cast<A>(x[i]));
      }
    }
    E* y = reinterpret_cast<E*>(out) + begin;
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<E>(panel[static_cast<size_t>(i)]);
  }
}

template <bool kSum>
void reduce(DType dtype, std::byte* out, std::span<const std::byte* const> inputs, int64_t count) {
  switch (dtype) {
    case DType::f32:
      return reduce<float, float, kSum>(out, inputs, count);
    case DType::bf16:
      return reduce<bf16, float, kSum>(out, inputs, count);
    case DType::f64:
      return reduce<double, double, kSum>(out, inputs, count);
    case DType::i32:
      return reduce<int32_t, int32_t, kSum>(out, inputs, count);
    case DType::i64:
      return reduce<int64_t, int64_t, kSum>(out, inputs, count);
    default:  // Communicator refuses the others
      return;
  }
}

}  // namespace

void host_reduce(ReduceOp op, DType dtype, std::byte* out, std::span<const std::byte* const> inputs,
                 int64_t count) {
  if (op == ReduceOp::sum) {
    reduce<true>(dtype, out, inputs, count);
  } else {
    reduce<false>(dtype, out, inputs, count);
  }
}

}  // namespace nereus
