// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <memory>
#include <new>
#include <string>

export module fmmap.pmr:allocation_error;

import fmmap.core;

export namespace fmmap {

/// What fmmap's memory resources throw when they cannot allocate: a `std::bad_alloc` that says why.
///
/// A full disk is `std::errc::no_space_on_device` here, a storage that cannot grow `errc::reservation_exceeded`.
class allocation_error : public std::bad_alloc {
public:
  explicit allocation_error(error why) noexcept;

  /// The same sentence as `why().message()`; where there was no memory for it, "std::bad_alloc".
  [[nodiscard]] auto what() const noexcept -> char const* override;

  [[nodiscard]] inline auto why() const noexcept -> error const& { return why_; }

private:
  error why_;
  std::shared_ptr<std::string const> message_; // shared: copying an exception must not throw
};

} // namespace fmmap
