// Letters and blanks of ASCII text, whatever the locale; sizes as text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nereus {

std::string lower(std::string text);
std::string upper(std::string text);

// Without `blanks` in front and behind.
std::string trimmed(std::string_view text, std::string_view blanks = " \t");

// "305.2 GB", "1.5 MB", "3.2 kB" (powers of 1000), "12 bytes".
std::string size_text(int64_t bytes);

}  // namespace nereus
