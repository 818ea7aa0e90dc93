// Files that come with the program: assets/ and configs/.
#pragma once

#include <string>

namespace nereus {

// The path of `name` ("assets/sample") as it is installed, in ../share/nereus beside the program's
// folder; else as it is in the source tree that the program was built in; else in the working
// folder. `name` itself when it is nowhere, for a message.
std::string program_file(const std::string& name);

// The same for a program at `program`.
std::string program_file(const std::string& name, const std::string& program);

}  // namespace nereus
