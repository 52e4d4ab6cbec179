#ifndef FLEXQUANT_CLIENT_GATEWAY_PRECISION_TRANSLATION_H_
#define FLEXQUANT_CLIENT_GATEWAY_PRECISION_TRANSLATION_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/gateway/json_fields.h"
#include "client/gateway/request_translation.h"
#include "flexquant/v1/precision.pb.h"

namespace flexquant::gateway {

// The body's field "flexquant": precision and batch mode go into `request`, the rest into `translated`.
absl::Status TranslateExtension(const Json& extension, v1::GenerateRequest& request, TranslatedRequest& translated);

// The header x-flexquant-precision: one of max_mean_kl=0.01, target_mean_bits=5.5, bits=4, plan=NAME, policy=NAME, then
// min_bits=3 and max_bits=8 after ';'.
absl::Status TranslatePrecisionHeader(absl::string_view header, v1::PrecisionPolicy& policy);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_PRECISION_TRANSLATION_H_
