# Flags of our own code; third_party is included as system headers.
#
# x86-64-v3 (AVX2, FMA) and no contraction: our code gives the same bits on every machine.
add_library(nereus_options INTERFACE)
set(cxx_options
  -Wall -Wextra -Wshadow -Wconversion -ffp-contract=off -fno-math-errno
  -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=)  # "at src/ops/matmul.cc:13" on every machine
if(NEREUS_WERROR)
  list(APPEND cxx_options -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND cxx_options -Wno-restrict)  # false: const char* + std::string
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND cxx_options -march=x86-64-v3)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  list(APPEND cxx_options -march=armv8.2-a)
endif()
target_compile_options(nereus_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>)
if(NEREUS_SANITIZE)
  target_compile_options(nereus_options INTERFACE
    -fsanitize=${NEREUS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(nereus_options INTERFACE -fsanitize=${NEREUS_SANITIZE})
  target_compile_definitions(nereus_options INTERFACE NEREUS_SANITIZED)  # device.poison_released is on
endif()
if(NEREUS_LIBFUZZER)
  target_compile_options(nereus_options INTERFACE -fsanitize=fuzzer-no-link)
  target_compile_definitions(nereus_options INTERFACE NEREUS_LIBFUZZER)
endif()
target_include_directories(nereus_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
