// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/resource.h>

#include "script.hpp"

#include "support/heap_image.hpp"

// What an input makes of a heap's file: a few changes, near what means something.

inline constexpr std::size_t longest_file = std::size_t{64} << 20; // whatever a header says

// The images that inputs choose from.
inline auto image(std::uint8_t which) -> heap_image& {
  static auto const is_limited = [] {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit const limit{.rlim_cur = longest_file, .rlim_max = longest_file};
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  }();
  require(is_limited);
  static std::array<heap_image, 2> images{heap_image{false}, heap_image{true}};
  return images[which % images.size()];
}

// Somewhere in what the file had.
inline auto place(heap_image const& image, script& input) -> std::uint64_t {
  return image.page_at(input.byte()) + (input.number<std::uint16_t>() % heap_image::page_bytes);
}

// At the edge of something in the file, or of a type.
inline auto telling_number(heap_image const& image, script& input) -> std::uint64_t {
  std::array const all{std::uint64_t{0},
                       UINT64_MAX,
                       std::uint64_t{1} << 63U,
                       std::uint64_t{1} << 52U,
                       std::uint64_t{UINT32_MAX},
                       std::uint64_t{heap_image::page_bytes},
                       std::uint64_t{heap_image::ring_bytes},
                       std::uint64_t{heap_image::journal_bytes},
                       heap_image::books_begin,
                       heap_image::content_begin,
                       heap_image::content_begin / heap_image::page_bytes,
                       image.size(),
                       image.size() / heap_image::page_bytes};
  auto const number = all[input.byte() % all.size()];
  return number + static_cast<std::uint64_t>(input.number<std::int8_t>());
}

inline void change_once(heap_image& image, script& input) {
  auto const what = input.byte();
  auto const at = place(image, input);
  auto const word = at / sizeof(std::uint64_t) * sizeof(std::uint64_t);
  auto const now = image.value<std::uint64_t>(word);
  switch (what % 7) {
  case 0:
    image.put(word, telling_number(image, input));
    break;
  case 1:
    image.put(word, now + static_cast<std::uint64_t>(input.number<std::int16_t>()));
    break;
  case 2:
    image.put(word, now ^ (std::uint64_t{1} << (input.byte() % 64U)));
    break;
  case 3:
    image.put(word, input.number<std::uint64_t>());
    break;
  case 4:
    image.write(at, std::as_bytes(input.take(input.byte())));
    break;
  case 5: {
    auto const from = place(image, input);
    image.put(at, image.value<std::array<std::byte, 64>>(from));
    break;
  }
  default:
    image.resize(std::min<std::uint64_t>(telling_number(image, input), longest_file));
    break;
  }
}

inline void change(heap_image& image, script& input) {
  for (auto changes = input.byte() % 16U; changes > 0; --changes) {
    change_once(image, input);
  }
}
