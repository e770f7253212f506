# SPDX-License-Identifier: Apache-2.0
# Flags that every target of the project is built with.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Werror -fno-omit-frame-pointer)
add_compile_options($<$<NOT:$<CONFIG:Debug>>:-g1>)  # functions and lines: a fifth less to compile than -g
add_compile_definitions(_GNU_SOURCE)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19)
  # libstdc++ hides <expected> from clang < 19, which reports an older __cpp_concepts than it has.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-builtin-macro-redefined>)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-D__cpp_concepts=202002L>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # What libbpf's macros are made of, which -Wpedantic names where they are used.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-gnu-statement-expression-from-macro-expansion>)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-c99-extensions>)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-designated-field-initializers>)
endif()
if(PSP_SANITIZE)
  # -O0 of clang compiles in a quarter of the time of -O1 of gcc, and finds what that finds; what runs
  # under ThreadSanitizer is too slow so, but for the tests themselves.
  set(PSP_SANITIZE_OPTIMIZE -O0)
  if(PSP_SANITIZE STREQUAL "thread")
    set(PSP_SANITIZE_OPTIMIZE -O1)
  endif()
  add_compile_options(-fsanitize=${PSP_SANITIZE} -fno-sanitize-recover=all ${PSP_SANITIZE_OPTIMIZE})
  add_compile_definitions(PSP_SANITIZED)
  add_link_options(-fsanitize=${PSP_SANITIZE})
  if(PSP_SANITIZE STREQUAL "thread")  # some tests have an operator new of their own
    add_link_options(-Wl,-z,muldefs)
  endif()
else()
  add_compile_options(-fstack-protector-strong)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
find_program(PSP_CCACHE ccache)
if(PSP_CCACHE)
  # A precompiled header is as good as the headers that it was made of.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    ${PSP_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
