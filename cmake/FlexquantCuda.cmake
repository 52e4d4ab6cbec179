# Decides whether the GPU executor is built: sets FLEXQUANT_HAVE_CUDA.

set(FLEXQUANT_HAVE_CUDA OFF)
if(FLEXQUANT_CUDA STREQUAL "ON" OR FLEXQUANT_CUDA STREQUAL "AUTO")
  # The GPU executor is not written yet: ON must not pretend.
  if(FLEXQUANT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FLEXQUANT_CUDA=ON: this version has no GPU executor; use AUTO or OFF")
  endif()
elseif(NOT FLEXQUANT_CUDA STREQUAL "OFF")
  message(FATAL_ERROR "FLEXQUANT_CUDA is '${FLEXQUANT_CUDA}'; allowed: AUTO, ON, OFF")
endif()
