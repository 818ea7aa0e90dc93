// libcurl and OpenSSL's libcrypto, opened when a download first needs them: a program that trains
// starts without them. For .cc files of this folder only.
#pragma once

#include <curl/curl.h>
#include <openssl/evp.h>

namespace nereus::hub {

#define NEREUS_CURL_FUNCTIONS(X) \
  X(curl_global_init)            \
  X(curl_easy_init)              \
  X(curl_easy_cleanup)           \
  X(curl_easy_reset)             \
  X(curl_easy_setopt)            \
  X(curl_easy_getinfo)           \
  X(curl_easy_perform)           \
  X(curl_easy_strerror)          \
  X(curl_slist_append)           \
  X(curl_slist_free_all)

#define NEREUS_CRYPTO_FUNCTIONS(X) \
  X(EVP_MD_CTX_new)                \
  X(EVP_MD_CTX_free)               \
  X(EVP_MD_CTX_copy_ex)            \
  X(EVP_DigestInit_ex)             \
  X(EVP_DigestUpdate)              \
  X(EVP_DigestFinal_ex)            \
  X(EVP_sha1)                      \
  X(EVP_sha256)

#define NEREUS_MEMBER(name) decltype(&::name) name = nullptr;
struct CurlLibrary {
  NEREUS_CURL_FUNCTIONS(NEREUS_MEMBER)
};
struct CryptoLibrary {
  NEREUS_CRYPTO_FUNCTIONS(NEREUS_MEMBER)
};
#undef NEREUS_MEMBER

// Throw Error{kConfig} that names the package when the library is not there.
const CurlLibrary& curl_library();
const CryptoLibrary& crypto_library();

}  // namespace nereus::hub
