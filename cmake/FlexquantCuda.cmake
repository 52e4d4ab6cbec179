# Decides whether the GPU executor is built: sets FLEXQUANT_HAVE_CUDA and makes flexquant_cuda_library.

set(FLEXQUANT_HAVE_CUDA OFF)
if(NOT FLEXQUANT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FLEXQUANT_CUDA is '${FLEXQUANT_CUDA}'; allowed: AUTO, ON, OFF")
endif()
if(FLEXQUANT_SANITIZER AND NOT FLEXQUANT_CUDA STREQUAL "OFF")
  # The sanitizers do not know CUDA's runtime; compute-sanitizer checks the device code.
  message(STATUS "FLEXQUANT_SANITIZER: no GPU executor")
elseif(NOT FLEXQUANT_CUDA STREQUAL "OFF")
  # sm_80 for the portable kernels, sm_90a for Hopper's, PTX for what comes later.
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING "CUDA architectures")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDAToolkit 12.4 QUIET)
  if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND)
    set(FLEXQUANT_HAVE_CUDA ON)
  elseif(FLEXQUANT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FLEXQUANT_CUDA=ON: no CUDA toolkit of version 12.4 or later was found; "
      "install one, say where it is with -DCUDAToolkit_ROOT=DIR -DCMAKE_CUDA_COMPILER=DIR/bin/nvcc, or use AUTO or OFF")
  endif()
endif()

if(FLEXQUANT_HAVE_CUDA)
  if(FLEXQUANT_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${FLEXQUANT_CCACHE})
  endif()
  enable_language(CUDA)
  # CMake 3.25 does not know nvcc's flag for C++20.
  set(CMAKE_CUDA_STANDARD_DEFAULT "")
  string(APPEND CMAKE_CUDA_FLAGS " -std=c++20")
  message(STATUS "GPU executor: CUDA ${CUDAToolkit_VERSION}")
else()
  message(STATUS "GPU executor: not built")
endif()
