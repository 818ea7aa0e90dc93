#include "hub/libraries.h"

#include <dlfcn.h>

#include <initializer_list>

#include "base/check.h"

namespace nereus::hub {
namespace {

void* open(std::initializer_list<const char*> names, const char* what) {
  for (const char* name : names)
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
  NEREUS_FAIL(
      kConfig,
      "downloads need {}, and the loader finds no {}. Install it ({}), or put its folder on "
      "LD_LIBRARY_PATH.",
      what, *names.begin(), what);
}

template <class F>
void load(void* handle, const char* name, F& member) {
  member = reinterpret_cast<F>(dlsym(handle, name));
  NEREUS_CHECK(kConfig, member != nullptr, "the library for downloads is too old: it lacks {}",
               name);
}

CurlLibrary open_curl() {
  void* handle = open({"libcurl.so.4"}, "libcurl4");
  CurlLibrary l;
#define NEREUS_LOAD(name) load(handle, #name, l.name);
  NEREUS_CURL_FUNCTIONS(NEREUS_LOAD)
  NEREUS_CHECK(kIo, l.curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK, "libcurl does not start");
  return l;
}

CryptoLibrary open_crypto() {
  void* handle = open({"libcrypto.so.3", "libcrypto.so.1.1"}, "libssl3");
  CryptoLibrary l;
  NEREUS_CRYPTO_FUNCTIONS(NEREUS_LOAD)
#undef NEREUS_LOAD
  return l;
}

}  // namespace

const CurlLibrary& curl_library() {
  static const CurlLibrary library = open_curl();
  return library;
}

const CryptoLibrary& crypto_library() {
  static const CryptoLibrary library = open_crypto();
  return library;
}

}  // namespace nereus::hub
