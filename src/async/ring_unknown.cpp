// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>
#include <system_error>

module fmmap.async;

import fmmap.core;
import :ring;

namespace fmmap {

// fmmap is built without liburing.
auto ring::make() -> result<std::unique_ptr<ring>> {
  return std::unexpected(error::make(std::make_error_code(std::errc::function_not_supported), "set up io_uring", {}, {},
                                     "this fmmap was built without liburing"));
}

} // namespace fmmap
