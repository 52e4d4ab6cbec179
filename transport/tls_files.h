#ifndef FLEXQUANT_TRANSPORT_TLS_FILES_H_
#define FLEXQUANT_TRANSPORT_TLS_FILES_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "transport/reloaded_files.h"

namespace flexquant::transport {

// Paths of PEM files.
struct TlsFiles {
  std::string certificate;  // with its chain; empty = none
  std::string key;          // of the certificate, without a passphrase
  std::string ca;           // the authorities whose certificates the peer may show; empty = none of ours

  bool empty() const { return certificate.empty() && key.empty() && ca.empty(); }
};

// Their contents; what is not given is empty.
struct TlsMaterial {
  std::string certificate_pem;
  std::string key_pem;
  std::string ca_pem;
};

// Reads and checks the files: INVALID_ARGUMENT naming the file if it is not PEM, the key is not the certificate's or
// has a passphrase, the certificate has expired, or one of certificate and key is missing; errors of reading. Replaced
// files are taken over once they pass the same checks. Keys never appear in errors.
absl::StatusOr<std::shared_ptr<Reloaded<TlsMaterial>>> OpenTlsFiles(const TlsFiles& files, absl::Duration interval);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_TLS_FILES_H_
