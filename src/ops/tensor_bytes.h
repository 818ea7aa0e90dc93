// The bytes of the tensors in an op's struct of arguments, each counted once: what the op reads and
// writes where it does not leave rows out (as one bounded by a count on the device does).
//
// The struct is an aggregate; its members are found by taking it apart. A member that is itself the
// struct of an op counts with its tensors, any other member that is no tensor for nothing.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "tensor/tensor.h"

namespace nereus::ops {
namespace members {

struct Anything {
  template <class T>
  operator T() const;  // NOLINT(google-explicit-constructor): never defined
};

template <class T, size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires { T{(static_cast<void>(I), Anything())...}; };
}

inline constexpr size_t kMost = 24;

template <class T, size_t N = kMost>
constexpr size_t count() {
  if constexpr (N == 0 || takes<T>(std::make_index_sequence<N>())) {
    return N;
  } else {
    return count<T, N - 1>();
  }
}

}  // namespace members

template <class T>
int64_t tensor_bytes(const T& arguments);

template <class T>
int64_t member_bytes(const T& member) {
  if constexpr (std::is_same_v<T, TensorView> || std::is_same_v<T, ConstTensorView>) {
    return member.bytes();
  } else if constexpr (std::is_class_v<T> && requires { check(member); }) {
    return tensor_bytes(member);
  } else {
    return 0;
  }
}

template <class... T>
int64_t sum_of_bytes(const T&... member) {
  return (int64_t{0} + ... + member_bytes(member));
}

template <class T>
int64_t tensor_bytes(const T& x) {
  constexpr size_t kMembers = members::count<T>();
  static_assert(kMembers > 0 && kMembers < members::kMost,
                "an op of more members than are told apart here");
  if constexpr (kMembers == 1) {
    const auto& [a] = x;
    return sum_of_bytes(a);
  } else if constexpr (kMembers == 2) {
    const auto& [a, b] = x;
    return sum_of_bytes(a, b);
  } else if constexpr (kMembers == 3) {
    const auto& [a, b, c] = x;
    return sum_of_bytes(a, b, c);
  } else if constexpr (kMembers == 4) {
    const auto& [a, b, c, d] = x;
    return sum_of_bytes(a, b, c, d);
  } else if constexpr (kMembers == 5) {
    const auto& [a, b, c, d, e] = x;
    return sum_of_bytes(a, b, c, d, e);
  } else if constexpr (kMembers == 6) {
    const auto& [a, b, c, d, e, f] = x;
    return sum_of_bytes(a, b, c, d, e, f);
  } else if constexpr (kMembers == 7) {
    const auto& [a, b, c, d, e, f, g] = x;
    return sum_of_bytes(a, b, c, d, e, f, g);
  } else if constexpr (kMembers == 8) {
    const auto& [a, b, c, d, e, f, g, h] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h);
  } else if constexpr (kMembers == 9) {
    const auto& [a, b, c, d, e, f, g, h, i] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i);
  } else if constexpr (kMembers == 10) {
    const auto& [a, b, c, d, e, f, g, h, i, j] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j);
  } else if constexpr (kMembers == 11) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k);
  } else if constexpr (kMembers == 12) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l);
  } else if constexpr (kMembers == 13) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m);
  } else if constexpr (kMembers == 14) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  } else if constexpr (kMembers == 15) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
  } else if constexpr (kMembers == 16) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
  } else if constexpr (kMembers == 17) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q);
  } else if constexpr (kMembers == 18) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r);
  } else if constexpr (kMembers == 19) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s);
  } else if constexpr (kMembers == 20) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);
  } else if constexpr (kMembers == 21) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u);
  } else if constexpr (kMembers == 22) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v);
  } else if constexpr (kMembers == 23) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w] = x;
    return sum_of_bytes(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w);
  }
}

}  // namespace nereus::ops
