// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

#include "support/shared.hpp"

export module fmmap.test.l3:block_log;

export namespace l3 {

enum class event : std::uint64_t {
  written,      // `bytes` at `offset`
  discarded,    // `number` bytes at `offset`, which read as zero from then on
  flushed,      // all before it is on the device for good
  started,      // the workload has begun what leads to state `number`
  acknowledged, // and has been promised it
  located,      // `bytes` are extents: where on the device the content of files lies
};

struct extent {
  std::uint64_t offset;
  std::uint64_t length;
};

struct log_entry {
  event what;
  std::uint64_t offset;
  std::uint64_t number;
  std::span<std::byte const> bytes;
};

// What has happened to a device and in the process that uses it, in order: one process appends what it serves, another what
// it has been promised, and who forked both of them reads it when they are done. An entry is there before the call returns,
// so of two of which one was caused by the other, the cause comes first.
class block_log {
public:
  // Throws std::length_error when there is no more room.
  void append(event what, std::uint64_t offset, std::uint64_t number, std::span<std::byte const> bytes = {}) {
    auto const length = round_up(sizeof(header) + bytes.size());
    auto const at = space_->end.fetch_add(length);
    if (at + length > capacity) {
      throw std::length_error{"the log of the device is full"};
    }
    header const head{.what = what, .offset = offset, .number = number, .length = bytes.size()};
    std::memcpy(space_->bytes.data() + at, &head, sizeof head);
    if (!bytes.empty()) {
      std::memcpy(space_->bytes.data() + at + sizeof head, bytes.data(), bytes.size());
    }
  }

  [[nodiscard]] auto entries() const -> std::vector<log_entry> {
    std::vector<log_entry> all;
    for (std::size_t at = 0; at < std::min<std::size_t>(space_->end, capacity);) {
      header head{};
      std::memcpy(&head, space_->bytes.data() + at, sizeof head);
      std::span const bytes{space_->bytes.data() + at + sizeof head, head.length};
      all.push_back({.what = head.what, .offset = head.offset, .number = head.number, .bytes = bytes});
      at += round_up(sizeof head + head.length);
    }
    return all;
  }

private:
  struct header {
    event what;
    std::uint64_t offset;
    std::uint64_t number;
    std::uint64_t length;
  };

  static constexpr std::size_t capacity = std::size_t{1} << 30; // of addresses

  struct space {
    std::atomic<std::uint64_t> end;
    std::array<std::byte, capacity> bytes;
  };

  static auto round_up(std::size_t length) -> std::size_t { return (length + 7) / 8 * 8; }

  shared<space> space_;
};

} // namespace l3
