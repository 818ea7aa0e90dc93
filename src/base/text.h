// Letters and blanks of ASCII text, whatever the locale; how files begin.
#pragma once

#include <string>
#include <string_view>

namespace nereus {

std::string lower(std::string text);
std::string upper(std::string text);

// Without `blanks` in front and behind.
std::string trimmed(std::string_view text, std::string_view blanks = " \t");

// Does a file that begins like this hold, in place of what it should, the few lines that Git LFS
// keeps until `git lfs pull`?
bool is_lfs_pointer(std::string_view start);

}  // namespace nereus
