// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

// What a program does wrong with what was allocated, where it is looked for.
export module fmmap.alloc:checks;

import :mutex;

export namespace fmmap::alloc {

// Whether fmmap itself is built for debugging: then everything is looked at.
#ifdef NDEBUG
inline constexpr bool debug_build = false;
#else
inline constexpr bool debug_build = true;
#endif

// Ends the program with one sentence about the deallocation that was wrong.
[[noreturn, gnu::cold]] void misuse(void const* pointer, std::size_t size, std::size_t alignment, char const* what);

struct request {
  std::size_t size;
  std::size_t alignment;
  auto operator==(request const&) const -> bool = default;
};

// All that is allocated, with what was asked for.
class live_objects {
public:
  // Throws std::bad_alloc, and has not noted it then.
  void add(std::size_t offset, request asked);

  // Notes that the object is gone, or ends the program.
  void remove(std::size_t offset, request told, void const* pointer);

  void clear() noexcept;

  void lock() noexcept;
  void unlock() noexcept;

private:
  struct shard {
    alloc::mutex mutex;
    std::unordered_map<std::size_t, request> objects;
  };
  [[nodiscard]] auto shard_of(std::size_t offset) noexcept -> shard& { return shards_[offset / 64 % shards_.size()]; }

  std::array<shard, 16> shards_;
};

} // namespace fmmap::alloc
