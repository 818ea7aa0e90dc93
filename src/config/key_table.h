// How config/keys.cc writes the rows of the keys: for that file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/choice_of.h"
#include "config/keys.h"

namespace nereus {

// Rows are added with short calls, so that the table below reads as a table.
class KeyTable {
 public:
  explicit KeyTable(std::vector<Key>& keys) : keys_(keys) {}

  void section(std::string name) { section_ = std::move(name) + "."; }
  Key& add_target(const char* name, Key::Target target, KeyClass key_class, const char* meaning) {
    keys_.push_back(
        {.name = section_ + name, .target = target, .key_class = key_class, .meaning = meaning});
    return keys_.back();
  }
  template <class T>
  Key& add(const char* name, T& target, KeyClass key_class, const char* meaning) {
    return add_target(name, &target, key_class, meaning);
  }
  template <class T>
  Key& works(const char* name, T& target, const char* meaning) {
    return add(name, target, KeyClass::works, meaning);
  }
  template <class T>
  Key& count(const char* name, T& target, const char* meaning, int64_t minimum = 1) {
    Key& key = works(name, target, meaning);
    key.minimum = minimum;
    return key;
  }
  Key& choice(const char* name, std::string& target, const char* meaning, Strings allowed,
              const char* sentence = "") {
    Key& key = works(name, target, meaning);
    key.allowed = std::move(allowed);
    key.sentence = sentence;
    return key;
  }
  // The same of an enum, an optional or a list of one, with the values that are allowed.
  template <class T, class E = typename EnumOf<T>::type>
  requires std::is_enum_v<E> Key& choice(const char* name, T& target, const char* meaning,
                                         std::initializer_list<std::type_identity_t<E>> allowed,
                                         const char* sentence = "") {
    Key& key = add_target(name, choice_of(target), KeyClass::works, meaning);
    for (const E value : allowed) key.allowed.emplace_back(word(value));
    key.sentence = sentence;
    return key;
  }
  // A float above `lowest`, or from it on.
  template <class T>
  Key& above(const char* name, T& target, const char* meaning, double lowest = 0) {
    Key& key = from(name, target, meaning, lowest);
    key.above_lowest = true;
    return key;
  }
  template <class T>
  Key& from(const char* name, T& target, const char* meaning, double lowest = 0) {
    Key& key = works(name, target, meaning);
    key.lowest = lowest;
    return key;
  }
  template <class T>
  Key& none(const char* name, T& target, const char* meaning) {
    return add(name, target, KeyClass::no_meaning, meaning);
  }
  // An integer that has nothing to act on is checked all the same.
  template <class T>
  Key& none_from(int64_t minimum, const char* name, T& target, const char* meaning) {
    Key& key = none(name, target, meaning);
    key.minimum = minimum;
    return key;
  }
  template <class T>
  Key& refused(const char* name, T& target, const char* meaning) {
    return add(name, target, KeyClass::refused, meaning);
  }

 private:
  std::vector<Key>& keys_;
  std::string section_;
};

}  // namespace nereus
