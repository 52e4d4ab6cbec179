#ifndef FLEXQUANT_COMMON_CALIBRATION_TOKEN_SIGNALS_H_
#define FLEXQUANT_COMMON_CALIBRATION_TOKEN_SIGNALS_H_

namespace flexquant {

// How sure the model was of one token: of its distribution before temperature and filters.
struct TokenSignals {
  double entropy_nats = 0;
  double top1_probability = 1;
  double margin = 0;  // top-1 minus top-2 logit

  bool operator==(const TokenSignals&) const = default;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_TOKEN_SIGNALS_H_
