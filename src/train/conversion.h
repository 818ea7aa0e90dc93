// What a conversion must know of the model, beyond tensors: what a native checkpoint says of its
// run, and config.json of one that a run saved.
#pragma once

#include <string>

#include "checkpoint/convert.h"

namespace nereus {

// Fills in request.run and request.config_json, where the formats need them. `program` is what
// wrote it. Throws Error{kConfig} when nothing says which model it is.
void describe_model(ConvertRequest& request, const std::string& program);

}  // namespace nereus
