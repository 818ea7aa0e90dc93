// The files that come with the program: the DeepSeek-V3 tokenizer, the sample of text.
#pragma once

#include <string>

namespace nereus {

// `name` ("sample/en") in the assets folder that belongs to this program: beside its build folder
// or in share/nereus of where it is installed. "" when there is none.
std::string asset_path(const std::string& name);

// `path` if it exists; else, for a path that begins with assets/, the one that asset_path() finds;
// else `path`.
std::string resolve_asset(const std::string& path);

}  // namespace nereus
