// A key whose target is an enum, an optional one or a list of them, as the table of keys handles
// it: by words alone. What choice_of() returns reads and writes `target`, which must outlive it.
#pragma once

#include "config/choices.h"
#include "config/keys.h"

namespace nereus {

template <class T>
struct EnumOf {
  using type = T;
  static constexpr Choice::Form kForm = Choice::Form::one;
};
template <class E>
struct EnumOf<std::optional<E>> {
  using type = E;
  static constexpr Choice::Form kForm = Choice::Form::optional;
};
template <class E>
struct EnumOf<std::vector<E>> {
  using type = E;
  static constexpr Choice::Form kForm = Choice::Form::list;
};

template <class T>
Choice choice_of(T& target) {
  using E = typename EnumOf<T>::type;
  constexpr Choice::Form kForm = EnumOf<T>::kForm;
  return {.form = kForm,
          .target = &target,
          .words = [](const void* from) -> Strings {
            const T& value = *static_cast<const T*>(from);
            Strings out;
            if constexpr (kForm == Choice::Form::one) {
              out.emplace_back(word(value));
            } else if constexpr (kForm == Choice::Form::optional) {
              if (value) out.emplace_back(word(*value));
            } else {
              for (const E item : value) out.emplace_back(word(item));
            }
            return out;
          },
          .set =
              [](void* to, const Strings& words) {
                T& value = *static_cast<T*>(to);
                if constexpr (kForm == Choice::Form::one) {
                  value = value_of<E>(words.front()).value();
                } else if constexpr (kForm == Choice::Form::optional) {
                  value = words.empty() ? std::nullopt : value_of<E>(words.front());
                } else {
                  value.clear();
                  for (const std::string& w : words) value.push_back(value_of<E>(w).value());
                }
              }};
}

}  // namespace nereus
