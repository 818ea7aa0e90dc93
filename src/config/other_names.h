// Keys under the names that TorchTitan had before, or has since: what they are called here. Such a
// name is not accepted (its values may mean something else); the message about it says what to
// write.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/keys.h"

namespace nereus {

struct OtherName {
  std::string_view theirs;  // training.batch_size, or a section
  std::string_view here;    // a key or a section; empty: there is none, and the note says why
  std::string_view note = {};
};
std::span<const OtherName> other_names();

// What a message adds to such a name: "; here it is called checkpoint.enable"; "" for another.
// `option`: names are written as on the command line.
std::string other_name_advice(const std::vector<Key>&, const std::string& name, bool option);

// Is the key, or a section that it is in, in other_names()?
bool is_other_name(std::string_view name);

// For names that nobody has. The nearest name part by part, a section among its like; and the same
// last name in one other section or two, for more would be no hint. "" when there is none.
std::string nearest_key(const std::vector<Key>&, const std::string& name);
std::string same_last_name(const std::vector<Key>&, const std::string& name);

}  // namespace nereus
