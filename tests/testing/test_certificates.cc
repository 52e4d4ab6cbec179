#include "tests/testing/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <filesystem>

#include "common/check.h"
#include "common/mapped_file.h"
#include "transport/openssl_owned.h"

namespace flexquant::testing {
namespace {

using transport::Owned;

std::string Contents(BIO* bio) {
  char* data = nullptr;
  const auto size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<size_t>(size)};
}

std::string ToPem(X509* certificate) {
  const Owned<BIO> bio(BIO_new(BIO_s_mem()));
  FQ_CHECK(PEM_write_bio_X509(bio.get(), certificate) == 1);
  return Contents(bio.get());
}

std::string ToPem(EVP_PKEY* key, const EVP_CIPHER* cipher = nullptr, const char* passphrase = nullptr) {
  const Owned<BIO> bio(BIO_new(BIO_s_mem()));
  FQ_CHECK(PEM_write_bio_PKCS8PrivateKey(bio.get(), key, cipher, nullptr, 0, nullptr, const_cast<char*>(passphrase)) ==
           1);
  return Contents(bio.get());
}

void AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  FQ_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

Owned<X509> NewCertificate(EVP_PKEY* key, const std::string& common_name, absl::Duration valid_for) {
  Owned<X509> certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  uint32_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -24 * 3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), absl::ToInt64Seconds(valid_for));
  X509_set_pubkey(certificate.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

struct TestAuthority::Parts {
  Owned<EVP_PKEY> key;
  Owned<X509> certificate;
};

TestAuthority::TestAuthority() : parts_(std::make_unique<Parts>()) {
  parts_->key.reset(EVP_EC_gen("P-256"));
  parts_->certificate = NewCertificate(parts_->key.get(), "Test Authority", absl::Hours(1));
  X509* certificate = parts_->certificate.get();
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  AddExtension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate, certificate, NID_key_usage, "critical,keyCertSign");
  FQ_CHECK(X509_sign(certificate, parts_->key.get(), EVP_sha256()) > 0);
  pem_ = ToPem(certificate);
}

TestAuthority::~TestAuthority() = default;

TestIdentity TestAuthority::Issue(const IssueOptions& options) const {
  const Owned<EVP_PKEY> key(EVP_EC_gen("P-256"));
  const Owned<X509> certificate = NewCertificate(key.get(), options.common_name, options.valid_for);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(parts_->certificate.get()));
  if (!options.alternative_names.empty()) {
    AddExtension(certificate.get(), parts_->certificate.get(), NID_subject_alt_name, options.alternative_names);
  }
  FQ_CHECK(X509_sign(certificate.get(), parts_->key.get(), EVP_sha256()) > 0);
  return {ToPem(certificate.get()), ToPem(key.get())};
}

TestIdentity TestAuthority::IssueServer() const {
  return Issue({.common_name = "server", .alternative_names = "IP:127.0.0.1"});
}

std::string EncryptedKey(const std::string& key_pem) {
  const Owned<BIO> bio(BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size())));
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  FQ_CHECK(key != nullptr);
  return ToPem(key.get(), EVP_aes_128_cbc(), "passphrase");
}

TestFolder::TestFolder() {
  path_ = (std::filesystem::temp_directory_path() / "flexquant-test.XXXXXX").string();
  FQ_CHECK(mkdtemp(path_.data()) != nullptr);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TestFolder::Write(const std::string& name, const std::string& contents) const {
  FQ_CHECK(WriteFileAtomically(Path(name), contents).ok());
  return Path(name);
}

void TestFolder::Write(const TestIdentity& identity, const std::string& name) const {
  Write(name + ".crt", identity.certificate_pem);
  Write(name + ".key", identity.key_pem);
}

}  // namespace flexquant::testing
