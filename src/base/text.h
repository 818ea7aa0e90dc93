// Letters and blanks of ASCII text, whatever the locale.
#pragma once

#include <string>
#include <string_view>

namespace nereus {

std::string lower(std::string text);
std::string upper(std::string text);

// Without `blanks` in front and behind.
std::string trimmed(std::string_view text, std::string_view blanks = " \t");

}  // namespace nereus
