# A folder under src/ is a library and a layer. Its sources are its .cc files; `x_test.cc` go into
# the layer's test program, `x_fuzz.cc` into its fuzz targets (replayed as tests without libFuzzer).
# With NEREUS_CUDA, its .cu files too, and the .cc files that see CUDA headers: those whose names
# end in _cuda, _cublas, _cudnn or _nccl. Of x_mpi.cc and x_no_mpi.cc one is built.
#
#   nereus_layer(tensor DEPENDS base LIBRARIES third_party::something)
function(nereus_layer name)
  cmake_parse_arguments(arg "" "" "DEPENDS;LIBRARIES;TEST_LIBRARIES" ${ARGN})
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/${name})
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cc ${folder}/*/*.cc)
  set(tests ${sources})
  set(fuzzers ${sources})
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.cc$")
  list(FILTER sources EXCLUDE REGEX "/(main|cpu_check|newer_glibc)\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(NEREUS_CUDA)
    file(GLOB kernels CONFIGURE_DEPENDS ${folder}/*.cu)
    list(FILTER kernels EXCLUDE REGEX "_sm100\\.cu$")  # src/CMakeLists.txt says when
    list(APPEND sources ${kernels})
  else()
    list(FILTER sources EXCLUDE REGEX "_(cuda|cublas|cudnn|nccl)\\.cc$")
  endif()
  if(nereus_mpi_FOUND)
    list(FILTER sources EXCLUDE REGEX "_no_mpi\\.cc$")
  else()
    list(FILTER sources EXCLUDE REGEX "ranks_mpi\\.cc$")
  endif()
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")

  list(TRANSFORM arg_DEPENDS PREPEND nereus_ OUTPUT_VARIABLE depends)
  if(sources)
    add_library(nereus_${name} STATIC ${sources})
    target_link_libraries(nereus_${name} PUBLIC nereus_options ${depends} third_party::fmt
                          PRIVATE ${arg_LIBRARIES})
  else()
    add_library(nereus_${name} INTERFACE)
    target_link_libraries(nereus_${name} INTERFACE nereus_options ${depends})
  endif()

  if(NEREUS_LIBFUZZER)
    foreach(fuzzer ${fuzzers})
      get_filename_component(fuzz_name ${fuzzer} NAME_WE)
      add_executable(${fuzz_name} ${fuzzer})
      target_link_libraries(${fuzz_name} PRIVATE nereus_${name} nereus_test ${arg_LIBRARIES})
      target_link_options(${fuzz_name} PRIVATE -fsanitize=fuzzer)
    endforeach()
  elseif(NEREUS_TESTS AND (tests OR fuzzers))
    add_executable(${name}_test ${tests} ${fuzzers})
    target_link_libraries(${name}_test PRIVATE nereus_${name} nereus_test GTest::gmock_main
                          ${arg_LIBRARIES} ${arg_TEST_LIBRARIES})
    # An op's arguments are named one by one, and optional ones are left out.
    target_compile_options(${name}_test PRIVATE -Wno-missing-field-initializers)
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 900
      ENVIRONMENT "NEREUS_SOURCE_DIR=${CMAKE_SOURCE_DIR}")
  endif()
endfunction()
