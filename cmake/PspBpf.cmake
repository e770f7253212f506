# SPDX-License-Identifier: Apache-2.0
# psp_bpf_skeleton(NAME): compiles src/kernel/bpf/NAME.bpf.c and makes NAME.skel.h of it, for
# targets that link psp_bpf_NAME.
find_program(PSP_BPF_CLANG NAMES clang-14 clang REQUIRED)
find_program(PSP_BPFTOOL NAMES bpftool PATHS /usr/sbin REQUIRED)

function(psp_bpf_skeleton name)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/bpf/${name}.bpf.c)
  set(directory ${CMAKE_CURRENT_BINARY_DIR}/bpf)
  set(object ${directory}/${name}.bpf.o)
  set(skeleton ${directory}/${name}.skel.h)
  file(MAKE_DIRECTORY ${directory})
  # The multiarch directory has asm/types.h; -mcpu=v3 has 32-bit atomics that return a value.
  add_custom_command(OUTPUT ${object}
    COMMAND ${PSP_BPF_CLANG} -target bpf -mcpu=v3 -g -O2 -Wall -Wextra -Werror
            -I${CMAKE_SOURCE_DIR}/src -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}
            -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source}
    DEPFILE ${object}.d
    COMMENT "BPF ${name}.bpf.c" VERBATIM)
  add_custom_command(OUTPUT ${skeleton}
    COMMAND ${PSP_BPFTOOL} gen skeleton ${object} name ${name}_bpf > ${skeleton}
    DEPENDS ${object} COMMENT "BPF skeleton ${name}.skel.h")
  add_custom_target(psp_bpf_${name}_skeleton DEPENDS ${skeleton})
  add_library(psp_bpf_${name} INTERFACE)
  add_dependencies(psp_bpf_${name} psp_bpf_${name}_skeleton)
  target_include_directories(psp_bpf_${name} SYSTEM INTERFACE ${directory})
endfunction()
