// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <utility>

// The last commit of a heap beside its file. Implementation units only.
module fmmap.pmr:heap_image;

import fmmap.core;
import fmmap.journal;
import :heap_format;
import :heap_memory;

namespace fmmap {

// Private memory over a file, in which what is in the journal has been put over what is in place. The content lies wherever
// there is room: who reads it knows offsets, and follows no pointers.
class heap_image {
public:
  // With `content` bytes of content, which the file has to hold. Errors: as `mapping::map`.
  [[nodiscard]] static auto make(file const& backing, journal::log const& records, heap_format::layout const& where,
                                 std::uint64_t content) -> result<heap_image>;

  // The file, where its books are right.
  [[nodiscard]] inline auto books() const noexcept -> std::span<std::byte const> { return books_.bytes(); }

  [[nodiscard]] inline auto content() const noexcept -> std::span<std::byte> {
    return {content_.content(), content_.size()};
  }

private:
  inline heap_image(mapping books, heap_memory content) noexcept
      : books_{std::move(books)}, content_{std::move(content)} {}

  void replay(journal::log const& records, heap_format::layout const& where);

  mapping books_;
  heap_memory content_;
};

} // namespace fmmap
