# SPDX-License-Identifier: Apache-2.0
# What is installed beside programs, libraries and manual pages.
include(GNUInstallDirs)
set(doc ${CMAKE_INSTALL_DATADIR}/doc/softpsp)
file(GLOB pages CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/docs/*.md)
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/LICENSE ${pages} DESTINATION ${doc})
install(FILES ${CMAKE_SOURCE_DIR}/systemd/pspd.toml DESTINATION ${doc})

# What others read: the dissector, the corpus.
install(FILES ${CMAKE_SOURCE_DIR}/wireshark/psp.lua ${CMAKE_SOURCE_DIR}/wireshark/README.md
  DESTINATION ${CMAKE_INSTALL_DATADIR}/softpsp/wireshark)
foreach(file README.md corpus.json clear.pcap sealed.pcap received.pcap runner.c)
  install(FILES ${CMAKE_SOURCE_DIR}/conformance/${file}
    DESTINATION ${CMAKE_INSTALL_DATADIR}/softpsp/conformance)
endforeach()
install(PROGRAMS ${CMAKE_SOURCE_DIR}/conformance/runner.py
  DESTINATION ${CMAKE_INSTALL_DATADIR}/softpsp/conformance)

# The unit says where its program is.
install(CODE "set(PREFIX \${CMAKE_INSTALL_PREFIX})
configure_file(${CMAKE_SOURCE_DIR}/systemd/pspd.service ${CMAKE_BINARY_DIR}/pspd.service @ONLY)")
install(FILES ${CMAKE_BINARY_DIR}/pspd.service DESTINATION lib/systemd/system)
