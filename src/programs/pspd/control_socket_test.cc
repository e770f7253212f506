// SPDX-License-Identifier: Apache-2.0
#include "control_socket.hh"

#include <gtest/gtest.h>
TEST(ControlSocket, Placeholder) {}
