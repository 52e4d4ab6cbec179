#ifndef FLEXQUANT_KERNELS_CPU_EXP_H_
#define FLEXQUANT_KERNELS_CPU_EXP_H_

namespace flexquant {

// e^x to about 1e-7 relative for x in [-87, 88]; larger x gives e^88, smaller x exactly 0.
template <class F32>
inline F32 Exp(F32 x) {
  const F32 lowest = F32::Set(-87.0F);
  const F32 clamped = Min(Max(x, lowest), F32::Set(88.0F));
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const F32 round = F32::Set(12582912.0F);
  const F32 n = Fma(clamped, F32::Set(1.44269504F), round) - round;
  // ln 2 in two parts, the first with few enough bits that n * part is exact.
  const F32 r = Fma(n, F32::Set(2.12194440e-4F), Fma(n, F32::Set(-0.693359375F), clamped));
  F32 p = F32::Set(1.0F / 5040);
  p = Fma(p, r, F32::Set(1.0F / 720));
  p = Fma(p, r, F32::Set(1.0F / 120));
  p = Fma(p, r, F32::Set(1.0F / 24));
  p = Fma(p, r, F32::Set(1.0F / 6));
  p = Fma(p, r, F32::Set(0.5F));
  p = Fma(p, r, F32::Set(1.0F));
  p = Fma(p, r, F32::Set(1.0F));
  return KeepWhereAtLeast(p * Pow2(n), x, lowest);
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_EXP_H_
