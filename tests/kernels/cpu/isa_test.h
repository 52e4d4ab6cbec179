#ifndef FLEXQUANT_TESTS_KERNELS_CPU_ISA_TEST_H_
#define FLEXQUANT_TESTS_KERNELS_CPU_ISA_TEST_H_

#include <gtest/gtest.h>

#include <string>

#include "kernels/kernels.h"

namespace flexquant::testing {

// A fixture run once for every compiled instruction set; those that this machine lacks are skipped.
class IsaTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) {
      GTEST_SKIP() << IsaName(GetParam()) << " is not supported by this machine";
    }
    kernels_ = &GetCpuKernels(GetParam());
  }
  const CpuKernels& kernels() const { return *kernels_; }

 private:
  const CpuKernels* kernels_ = nullptr;
};

inline std::string IsaTestName(const ::testing::TestParamInfo<Isa>& info) { return std::string(IsaName(info.param)); }

#define FLEXQUANT_INSTANTIATE_ISA_TEST(Fixture) \
  INSTANTIATE_TEST_SUITE_P(Isas, Fixture, ::testing::ValuesIn(AllIsas()), ::flexquant::testing::IsaTestName)

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CPU_ISA_TEST_H_
