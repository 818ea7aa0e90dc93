#include "launch/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstring>
#include <string_view>

namespace nereus {
namespace {

// Of the first object, which is the program itself.
int read_notes(dl_phdr_info* object, size_t, void* out) {
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* at = reinterpret_cast<const char*>(object->dlpi_addr + segment.p_vaddr);
    const char* end = at + segment.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const char* name = at + sizeof note;
      const char* id = name + (note.n_namesz + 3) / 4 * 4;
      if (note.n_type == NT_GNU_BUILD_ID &&
          std::string_view(name, note.n_namesz) == std::string_view("GNU\0", 4)) {
        constexpr char kDigits[] = "0123456789abcdef";
        for (size_t b = 0; b < note.n_descsz && b < 6; ++b) {
          const auto byte = static_cast<unsigned char>(id[b]);
          *static_cast<std::string*>(out) += {kDigits[byte >> 4], kDigits[byte & 15]};
        }
        return 1;
      }
      at = id + (note.n_descsz + 3) / 4 * 4;
    }
  }
  return 1;
}

}  // namespace

std::string build_id() {
  std::string id;
  dl_iterate_phdr(read_notes, &id);
  return id;
}

}  // namespace nereus
