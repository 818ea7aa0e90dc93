// Gives a key a value: from TOML or from the text of an argument. Throws Error{kConfig}; `where` is
// "file.toml:7" or the argument, for its message.
#pragma once

#include <optional>
#include <string>

#include "config/keys.h"

namespace nereus {

// `text` as on the command line; lists are comma-separated and appended to when `append`.
void set_from_text(const Key&, const std::string& text, const std::string& where, bool append);

// The key of a choice: checks each word, and sets them.
void set_words(const Key&, const Choice&, const Strings& words, const std::string& where);

// Checks what the key's row says of its value: sets, ranges.
void check_value(const Key&, const std::string& where);

// The bounds of a float in words: "greater than 0 and at most 1"; "" when it has none.
std::string float_rule(const Key&);

// An empty text is no value, as it is for TorchTitan.
template <class T>
void drop_empty(std::optional<T>&) {}
inline void drop_empty(std::optional<std::string>& value) {
  if (value && value->empty()) value.reset();
}

[[noreturn]] void fail_type(const Key&, const std::string& given, const std::string& where);

}  // namespace nereus
