// What `nereus setup` puts into an installation: links, files and folders. Each is made under a
// second name and renamed, so that other programs see the old one or the new one, never a part of
// it; an unfinished one is removed on failure. Throws Error{kConfig}.
#pragma once

#include <string>

namespace nereus::recipe {

// `to` becomes a link to `target`, whatever it was.
void make_link(const std::string& target, const std::string& to);

// Nothing is done where `to` is the file itself; a link to it gives way to the copy.
void copy_file(const std::string& from, const std::string& to);

// `to` becomes the folder `from`: what else was in it is gone. Links in it are followed.
void copy_folder(const std::string& from, const std::string& to);

}  // namespace nereus::recipe
