// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes its input for a script of operations with hostile numbers on a file in memory and a mapping of it, and holds
// what they show against a plain vector.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "script.hpp"

import fmmap.core;

namespace {

constexpr std::size_t largest_file = std::size_t{1} << 20;

// Near the edges of pages, of the file and of the type more often than anywhere else.
auto number(script& input, std::uint64_t size) -> std::uint64_t {
  auto const kind = input.byte();
  std::uint64_t const low = input.number<std::uint16_t>();
  switch (kind % 5) {
  case 0:
    return low;
  case 1:
    return low * 16;
  case 2:
    return size - low % 8;
  case 3:
    return size + low % 8;
  default:
    return UINT64_MAX - low;
  }
}

auto fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) -> bool {
  return static_cast<unsigned __int128>(offset) + length <= size;
}

class run {
public:
  explicit run(script s) : script_{s}, file_{fmmap::or_throw(fmmap::file::in_memory("fuzz"))}, mapping_{map()} {}

  void step() {
    auto const what = script_.byte();
    fmmap::byte_range const range{.offset = number(script_, model_.size()),
                                  .length = static_cast<std::size_t>(number(script_, model_.size()))};
    auto const inside =
        range.length == fmmap::to_end ? range.offset <= model_.size() : fits(range.offset, range.length, model_.size());
    switch (what % 9) {
    case 0:
      resize(range.offset);
      break;
    case 1:
      write(range.offset, range.length % 5000);
      break;
    case 2:
      require(mapping_.bytes(range).has_value() == inside);
      break;
    case 3:
      discard(range, inside);
      break;
    case 4:
      require(mapping_.advise(fmmap::advice::sequential, range).has_value() == inside);
      break;
    case 5:
      require(mapping_.residency(range).has_value() == inside);
      break;
    case 6:
      map_part(range, inside);
      break;
    case 7:
      punch(range);
      break;
    default:
      allocate(range);
      break;
    }
    require(mapping_.size() == model_.size());
    require(model_.empty() || std::memcmp(mapping_.bytes().data(), model_.data(), model_.size()) == 0);
  }

  void play() {
    for (int steps = 0; steps < 64 && !script_.done(); ++steps) {
      step();
    }
  }

private:
  auto map() -> fmmap::mapping {
    return fmmap::or_throw(
        fmmap::mapping::map(file_, {.access = fmmap::access::read_write, .reserve = 2 * largest_file}));
  }

  void resize(std::uint64_t size) {
    if (size > largest_file) {
      require(mapping_.capacity() >= size || !mapping_.resize(static_cast<std::size_t>(size)));
      return;
    }
    fmmap::or_throw(file_.resize(size));
    follow(size);
  }

  // The file has a new size: the mapping and the model get it too.
  void follow(std::uint64_t size) {
    fmmap::or_throw(mapping_.resize(static_cast<std::size_t>(size)));
    model_.resize(static_cast<std::size_t>(size));
  }

  void write(std::uint64_t offset, std::size_t length) {
    std::vector<std::byte> const bytes(length, std::byte{script_.byte()});
    if (!fits(offset, length, largest_file)) {
      return;
    }
    require(file_.write_at(offset, bytes).has_value());
    if (length > 0 && offset + length > model_.size()) {
      follow(offset + length);
    }
    std::ranges::copy(bytes, model_.begin() + static_cast<std::ptrdiff_t>(length == 0 ? 0 : offset));
  }

  void discard(fmmap::byte_range range, bool inside) {
    require(mapping_.discard(range).has_value() == inside);
    if (inside) {
      auto const page = fmmap::system_page_size();
      auto const end = range.length == fmmap::to_end ? model_.size() : range.offset + range.length;
      auto const first = (range.offset + page - 1) / page * page;
      auto const last = end / page * page;
      clear(first, last);
    }
  }

  void punch(fmmap::byte_range range) {
    auto const valid = range.length == fmmap::to_end || fits(range.offset, range.length, UINT64_MAX);
    require(file_.punch_hole(range).has_value() == valid);
    if (valid) {
      auto const end = range.length == fmmap::to_end
                           ? model_.size()
                           : std::min<std::uint64_t>(range.offset + range.length, model_.size());
      clear(range.offset, end);
    }
  }

  void allocate(fmmap::byte_range range) {
    if (range.length == fmmap::to_end || !fits(range.offset, range.length, largest_file)) {
      return;
    }
    require(file_.allocate(range).has_value());
    auto const end = range.offset + range.length;
    if (range.length > 0 && end > model_.size()) {
      follow(end);
    }
  }

  void map_part(fmmap::byte_range range, bool inside) {
    auto const part = fmmap::mapping::map(file_, {.access = fmmap::access::copy_on_write, .range = range});
    require(part.has_value() == inside);
    if (part && !part->empty()) {
      require(std::memcmp(part->bytes().data(), model_.data() + range.offset, part->size()) == 0);
    }
  }

  void clear(std::uint64_t begin, std::uint64_t end) {
    if (begin < end) {
      std::fill(model_.begin() + static_cast<std::ptrdiff_t>(begin), model_.begin() + static_cast<std::ptrdiff_t>(end),
                std::byte{0});
    }
  }

  script script_;
  fmmap::file file_;
  std::vector<std::byte> model_;
  fmmap::mapping mapping_;
};

} // namespace

extern "C" auto LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) -> int {
  run{script{{data, size}}}.play();
  return 0;
}
