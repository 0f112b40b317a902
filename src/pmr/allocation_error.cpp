// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <memory>
#include <new>
#include <string>
#include <utility>

module fmmap.pmr;

import fmmap.core;

namespace fmmap {

allocation_error::allocation_error(error why) noexcept : why_{std::move(why)} {
  try {
    message_ = std::make_shared<std::string const>(why_.message());
  } catch (std::bad_alloc const&) { // memory is what is short: what() has a sentence without it
    message_.reset();
  }
}

auto allocation_error::what() const noexcept -> char const* {
  return message_ ? message_->c_str() : std::bad_alloc::what();
}

} // namespace fmmap
