#ifndef FLEXQUANT_COMMON_SPIN_H_
#define FLEXQUANT_COMMON_SPIN_H_

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <thread>
#endif

namespace flexquant {

// Pauses before a thread that waits for another one of a step sleeps. About 50 us: longer than the serial gaps inside a
// step, far shorter than a person notices in `top`.
inline constexpr int kSpins = 4000;

// Between two looks at what another thread is about to do.
inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_SPIN_H_
