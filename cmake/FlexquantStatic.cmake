# FLEXQUANT_STATIC: programs need nothing of Debian's at run time but glibc (and for GPUs the driver and cuBLAS), so that a
# folder with them runs on another Linux machine. Debian's CMake packages name shared libraries; the archives lie beside
# them.

find_package(fmt REQUIRED)
target_compile_definitions(flexquant_log INTERFACE SPDLOG_FMT_EXTERNAL)
target_link_libraries(flexquant_log INTERFACE Threads::Threads fmt::fmt-header-only)

get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
# set_to_archive(VARIABLE LOCATION...): the locations, each shared library replaced by the archive beside it if there is one.
function(set_to_archive variable)
  set(result "")
  foreach(location IN LISTS ARGN)
    string(REGEX REPLACE "\\.so(\\.[0-9]+)*$" ".a" archive "${location}")
    if(EXISTS "${archive}")
      set(location "${archive}")
    endif()
    list(APPEND result "${location}")
  endforeach()
  set(${variable} "${result}" PARENT_SCOPE)
endfunction()

foreach(target IN ITEMS PkgConfig::PCRE2 PkgConfig::XXHASH)
  get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
  set_to_archive(libraries ${libraries})
  set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${libraries}")
endforeach()

foreach(target IN LISTS imported)
  get_target_property(type ${target} TYPE)
  if(NOT type MATCHES "SHARED_LIBRARY|UNKNOWN_LIBRARY")
    continue()
  endif()
  foreach(property IN ITEMS IMPORTED_LOCATION IMPORTED_LOCATION_NONE IMPORTED_LOCATION_RELEASE)
    get_target_property(location ${target} ${property})
    if(location)
      set_to_archive(location "${location}")
      set_target_properties(${target} PROPERTIES ${property} "${location}")
    endif()
  endforeach()
endforeach()

# What gRPC's archives need themselves, in the order its pkg-config file gives.
pkg_check_modules(GRPC_STATIC REQUIRED grpc++ protobuf)
set(private ${GRPC_STATIC_STATIC_LIBRARIES})
list(REMOVE_ITEM private dl rt atomic)
list(TRANSFORM private PREPEND "-l")
set(FLEXQUANT_STATIC_LIBRARIES -Wl,--start-group -Wl,-Bstatic ${private} -Wl,-Bdynamic -Wl,--end-group -latomic -ldl -lrt)
link_libraries(-static-libgcc -static-libstdc++)
