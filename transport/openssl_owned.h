#ifndef FLEXQUANT_TRANSPORT_OPENSSL_OWNED_H_
#define FLEXQUANT_TRANSPORT_OPENSSL_OWNED_H_

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>

namespace flexquant::transport {

struct OpensslDeleter {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
// An object of OpenSSL's.
template <typename T>
using Owned = std::unique_ptr<T, OpensslDeleter>;

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_OPENSSL_OWNED_H_
