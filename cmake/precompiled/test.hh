// SPDX-License-Identifier: Apache-2.0
//
// What the sources of a test program include besides (see library.hh): a test is compiled with
// other options, and so has a precompiled header of its own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "library.hh"
