// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

// Whether a result is this error.
template <class Result, class Code>
auto fails(Result const& outcome, Code code) -> bool {
  return !outcome && outcome.error() == code;
}
