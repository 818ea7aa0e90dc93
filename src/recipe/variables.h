// Environment variables by name.
#pragma once

#include <map>
#include <string>

namespace nereus::recipe {

using Variables = std::map<std::string, std::string>;

}  // namespace nereus::recipe
