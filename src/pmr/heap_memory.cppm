// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>

// The addresses of a heap: the overlay, and behind it the content, private pages over those of the file. Implementation units only.
module fmmap.pmr:heap_memory;

import fmmap.core;
import fmmap.os;
import :heap_format;

namespace fmmap {

class heap_memory {
public:
  // Takes the addresses from `slot` on, all inaccessible but what is used of the overlay.
  //
  // Errors: `errc::address_in_use`, naming what is there; what mmap(2) reports.
  [[nodiscard]] static auto take(std::uint64_t slot, std::uint64_t reserve, std::string_view path)
      -> result<heap_memory>;

  // The same anywhere where `reserve` bytes of content are free.
  [[nodiscard]] static auto take_any(std::uint64_t reserve, std::string_view path) -> result<heap_memory>;

  heap_memory() = default;
  heap_memory(heap_memory&& other) noexcept;
  auto operator=(heap_memory&& other) noexcept -> heap_memory&;
  ~heap_memory();

  [[nodiscard]] inline auto slot() const noexcept -> std::uint64_t { return reinterpret_cast<std::uintptr_t>(base_); }
  [[nodiscard]] inline auto overlay() const noexcept -> std::byte* { return base_; }
  [[nodiscard]] inline auto content() const noexcept -> std::byte* { return base_ + heap_format::overlay_bytes; }
  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return size_; }
  [[nodiscard]] inline auto length() const noexcept -> std::size_t { return length_; } // of all of it

  // Maps content up to `size` bytes, which the file holds. Errors: an errno; what was mapped before stays.
  [[nodiscard]] auto extend(os::descriptor file, heap_format::layout const& where, std::size_t size)
      -> os::outcome<void>;

  // From there to the end, where the file holds nothing yet: read ahead, that would be in large pieces in the cache, and writing
  // a line in place into one of those takes ten times as long.
  void disable_readahead(std::byte* from) noexcept;

  // Makes the content read-only.
  [[nodiscard]] auto protect() -> os::outcome<void>;

  [[nodiscard]] auto unmap() -> os::outcome<void>;

private:
  std::byte* base_ = nullptr;
  std::size_t length_ = 0;
  std::size_t size_ = 0; // of the content
};

} // namespace fmmap
