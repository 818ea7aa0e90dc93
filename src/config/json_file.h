// JSON files that come with a model: config.json, an index of weights, a tokenizer's settings.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace nereus {

// Throws Error{kConfig} that names the file, when it cannot be read, was not fetched
// (base/fetched.h) or is not JSON, with how it begins.
nlohmann::json read_json_file(const std::string& path);

}  // namespace nereus
