#ifndef FLEXQUANT_CLIENT_GATEWAY_PAGE_FILES_H_
#define FLEXQUANT_CLIENT_GATEWAY_PAGE_FILES_H_

// The files of client/gateway/page, compiled in.

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace flexquant::gateway {

struct PageFile {
  absl::string_view name;  // such as "index.html"
  absl::string_view etag;  // with its quotes
  absl::string_view contents;
};

absl::Span<const PageFile> PageFiles();

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_PAGE_FILES_H_
