# SPDX-License-Identifier: Apache-2.0
# psp_precompile(TARGET library|test): the headers that most sources include are read once for all layers and once for
# all tests: a source takes two thirds of the time then. A compiler takes a precompiled header only under the options
# that it was made with, so both kinds are targets of their own here. PSP_PRECOMPILE=OFF does without.
option(PSP_PRECOMPILE "Read the headers that most sources include once" ON)

find_package(fmt REQUIRED)
# For all, whether they use fmt or not: it is an option that has to be the same.
add_compile_definitions($<TARGET_PROPERTY:fmt::fmt,INTERFACE_COMPILE_DEFINITIONS>)

function(psp_precompiled kind)
  set(source ${CMAKE_BINARY_DIR}/precompiled/${kind}.cc)
  file(GENERATE OUTPUT ${source} CONTENT "")
  add_library(psp_precompiled_${kind} OBJECT ${source})
  target_precompile_headers(psp_precompiled_${kind} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled/${kind}.hh)
endfunction()

function(psp_precompile target kind)
  if(PSP_PRECOMPILE)
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources INCLUDE REGEX "\\.c$")
    set_source_files_properties(${sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    target_precompile_headers(${target} REUSE_FROM psp_precompiled_${kind})
    # gcc 12 then looks into std::string as if it were ours, and takes what cannot happen for a mistake. clang, which
    # compiles the sanitizers' builds, goes on to warn.
    foreach(warning array-bounds restrict stringop-overflow stringop-overread)
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-${warning}>)
    endforeach()
  endif()
endfunction()

if(PSP_PRECOMPILE)
  psp_precompiled(library)
endif()
if(PSP_PRECOMPILE AND PSP_BUILD_TESTS)
  find_package(GTest REQUIRED)
  psp_precompiled(test)
  psp_test_options(psp_precompiled_test)
  # A test is an executable.
  set_target_properties(psp_precompiled_test PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(psp_precompiled_test PRIVATE -fPIE)
  target_link_libraries(psp_precompiled_test PRIVATE GTest::gtest GTest::gmock)
endif()
