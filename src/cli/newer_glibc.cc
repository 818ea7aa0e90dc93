// In packages (scripts/package.sh): what the compiler's own libraries ask of a glibc that is newer
// than a package may need.
//
//   _dl_find_object (2.35)   where the code of an address keeps what unwinding needs; done here as
//                            it was before, over all loaded objects
//   arc4random (2.36)        which nothing here calls, but is linked in
#include <dlfcn.h>
#include <link.h>
#include <sys/random.h>

#include <cstdint>

#ifdef DLFO_STRUCT_HAS_EH_DBASE
namespace {

struct Search {
  uintptr_t address;
  dl_find_object* found;
};

int look(dl_phdr_info* object, size_t, void* data) {
  auto* search = static_cast<Search*>(data);
  const ElfW(Phdr)* code = nullptr, *frames = nullptr;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD && search->address >= begin &&
        search->address < begin + part.p_memsz)
      code = &part;
    if (part.p_type == PT_GNU_EH_FRAME) frames = &part;
  }
  if (code == nullptr) return 0;
  if (frames == nullptr) return -1;
  search->found->dlfo_flags = 0;
  search->found->dlfo_map_start = reinterpret_cast<void*>(object->dlpi_addr + code->p_vaddr);
  search->found->dlfo_map_end =
      reinterpret_cast<void*>(object->dlpi_addr + code->p_vaddr + code->p_memsz);
  search->found->dlfo_link_map = nullptr;
  search->found->dlfo_eh_frame = reinterpret_cast<void*>(object->dlpi_addr + frames->p_vaddr);
  return 1;
}

}  // namespace

extern "C" int _dl_find_object(void* address, dl_find_object* found) noexcept {
  Search search = {reinterpret_cast<uintptr_t>(address), found};
  return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}
#endif

extern "C" uint32_t arc4random() noexcept {
  uint32_t number = 0;
  while (getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return number;
}
