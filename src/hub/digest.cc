#include "hub/digest.h"

#include <array>

#include "base/check.h"
#include "hub/libraries.h"

namespace nereus::hub {

struct Digest::State {
  const CryptoLibrary& lib = crypto_library();
  EVP_MD_CTX* context = lib.EVP_MD_CTX_new();
  ~State() { lib.EVP_MD_CTX_free(context); }
};

Digest::Digest(Kind kind, int64_t size)
    : kind_(kind), size_(size), state_(std::make_unique<State>()) {
  restart();
}
Digest::~Digest() = default;

void Digest::restart() {
  const CryptoLibrary& lib = state_->lib;
  const EVP_MD* what = kind_ == Kind::sha256 ? lib.EVP_sha256() : lib.EVP_sha1();
  NEREUS_CHECK(kIo, lib.EVP_DigestInit_ex(state_->context, what, nullptr) == 1,
               "OpenSSL has no {} on this machine", kind_ == Kind::sha256 ? "SHA-256" : "SHA-1");
  if (kind_ == Kind::git_blob) {
    const std::string head = fmt::format("blob {}", size_);
    add(std::as_bytes(std::span(head.c_str(), head.size() + 1)));
  }
}

void Digest::add(std::span<const std::byte> bytes) {
  state_->lib.EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Digest::hex() const {
  const State copy;
  copy.lib.EVP_MD_CTX_copy_ex(copy.context, state_->context);
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned int n = 0;
  copy.lib.EVP_DigestFinal_ex(copy.context, out.data(), &n);
  std::string text;
  for (unsigned int i = 0; i < n; ++i) text += fmt::format("{:02x}", out[i]);
  return text;
}

}  // namespace nereus::hub
