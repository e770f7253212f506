#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks the manual pages with mandoc. Exit 77 (skipped) names the tool that is missing.
set -uo pipefail
cd "$(dirname "$0")" || exit
if ! command -v mandoc >/dev/null; then
  echo "man/lint.sh: skipped: mandoc is missing (apt-get install mandoc)"
  exit 77
fi
status=0
for page in *.[1-8]; do
  # Below warnings are matters of taste, and pages that are not installed here.
  if ! messages=$(mandoc -Tlint -Wwarning "$page"); then
    echo "$messages"
    status=1
  fi
done
exit $status
