#include "transport/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <climits>
#include <ctime>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "transport/openssl_owned.h"

namespace flexquant::transport {
namespace {

Owned<BIO> Reader(const std::string& pem) {
  return Owned<BIO>(BIO_new_mem_buf(pem.data(), static_cast<int>(std::min<size_t>(pem.size(), INT_MAX))));
}

// OpenSSL would ask at the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return -1; }

absl::Status FileError(const std::string& path, absl::string_view problem) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", problem));
}

// The certificates of a PEM file; at least one.
absl::StatusOr<std::vector<Owned<X509>>> ParseCertificates(const std::string& path, const std::string& pem) {
  std::vector<Owned<X509>> certificates;
  ERR_clear_error();
  const Owned<BIO> bio = Reader(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) {
    certificates.emplace_back(certificate);
  }
  // The end of the file is told as an error too.
  const unsigned long error = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  const bool at_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (certificates.empty() || !at_end) {
    return FileError(path, "no PEM file of certificates; it must begin with -----BEGIN CERTIFICATE-----");
  }
  ERR_clear_error();
  return certificates;
}

absl::Status CheckNotExpired(const std::string& path, const X509& certificate) {
  const ASN1_TIME* end = X509_get0_notAfter(&certificate);
  if (X509_cmp_current_time(end) > 0) {
    return absl::OkStatus();
  }
  tm calendar = {};
  std::string when;
  if (ASN1_TIME_to_tm(end, &calendar) == 1) {
    when = absl::StrCat(" on ", absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromTM(calendar, absl::UTCTimeZone()),
                                                 absl::UTCTimeZone()));
  }
  return FileError(path, absl::StrCat("the certificate expired", when, "; replace it and its key"));
}

absl::Status CheckIdentity(const TlsFiles& files, const TlsMaterial& material) {
  FQ_ASSIGN_OR_RETURN(const auto chain, ParseCertificates(files.certificate, material.certificate_pem));
  FQ_RETURN_IF_ERROR(CheckNotExpired(files.certificate, *chain.front()));
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(Reader(material.key_pem).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return FileError(files.key, "no PEM file of a private key without a passphrase");
  }
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    return FileError(files.key, absl::StrCat("not the key of the first certificate in ", files.certificate));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<Reloaded<TlsMaterial>>> OpenTlsFiles(const TlsFiles& files, absl::Duration interval) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError(
        files.key.empty() ? absl::StrCat("certificate ", files.certificate, " without its key; give both")
                          : absl::StrCat("key ", files.key, " without its certificate; give both"));
  }
  std::vector<std::string> paths;
  std::vector<std::string TlsMaterial::*> targets;
  const auto add = [&](const std::string& path, std::string TlsMaterial::*target) {
    if (!path.empty()) {
      paths.push_back(path);
      targets.push_back(target);
    }
  };
  add(files.certificate, &TlsMaterial::certificate_pem);
  add(files.key, &TlsMaterial::key_pem);
  add(files.ca, &TlsMaterial::ca_pem);
  return Reloaded<TlsMaterial>::Open(
      paths, interval, [files, targets](const std::vector<std::string>& contents) -> absl::StatusOr<TlsMaterial> {
        TlsMaterial material;
        for (size_t i = 0; i < targets.size(); ++i) {
          material.*targets[i] = contents[i];
        }
        if (!files.certificate.empty()) {
          FQ_RETURN_IF_ERROR(CheckIdentity(files, material));
        }
        if (!files.ca.empty()) {
          FQ_RETURN_IF_ERROR(ParseCertificates(files.ca, material.ca_pem).status());
        }
        return material;
      });
}

}  // namespace flexquant::transport
