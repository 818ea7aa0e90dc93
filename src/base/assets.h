// The program's own file, and those that come with it: the DeepSeek-V3 tokenizer, the sample of
// text.
#pragma once

#include <string>

namespace nereus {

// This program's file, as it is started again; "" where the system does not tell.
std::string program_path();

// `name` ("sample/en") in the assets folder that belongs to this program: next to its build folder
// or in share/nereus of where it is installed. "" when there is none.
std::string asset_path(const std::string& name);

// `path` if it exists; else, for a path that begins with assets/, the one that asset_path() finds;
// else `path`.
std::string resolve_asset(const std::string& path);

}  // namespace nereus
