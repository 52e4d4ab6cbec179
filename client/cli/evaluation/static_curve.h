#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_STATIC_CURVE_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_STATIC_CURVE_H_

#include <vector>

namespace flexquant::cli {

// What static plans cost between those that were measured: from one plan to the next the logarithm of KL is linear in
// bytes, and KL itself where one of the two has none. A value type.
class StaticCurve {
 public:
  struct Point {
    double bytes = 0;
    double kl = 0;  // nats
  };

  // Not empty. Plans that a cheaper one equals or beats are left out: it would be chosen instead.
  explicit StaticCurve(std::vector<Point> points);

  // KL at so many bytes; the ends' beyond them.
  double KlAt(double bytes) const;
  // Bytes at which KL is down to `kl`; the ends' beyond them.
  double BytesAt(double kl) const;

 private:
  std::vector<Point> points_;  // bytes rise, kl falls
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_STATIC_CURVE_H_
