// Gives a key a value: from TOML or from the text of an argument. Throws Error{kConfig}; `where` is
// "file.toml:7" or the argument, for its message.
#pragma once

#include <string>

#include "config/keys.h"

namespace nereus {

// `text` as on the command line; lists are comma-separated and appended to when `append`.
void set_from_text(const Key&, const std::string& text, const std::string& where, bool append);

// Checks what the key's row says of its value: sets, ranges.
void check_value(const Key&, const std::string& where);

[[noreturn]] void fail_type(const Key&, const std::string& given, const std::string& where);

}  // namespace nereus
