// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Writes a second of sound as a WAVE file, field by field, and reads it back: write_tone [NEW_FILE]

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <expected>
#include <numbers>
#include <ranges>
#include <span>
#include <string_view>
#include <utility>

import fmmap;

namespace {

constexpr std::uint32_t rate = 44'100; // samples in a second
constexpr std::size_t header_size = 44;
constexpr std::size_t size = header_size + rate * sizeof(std::int16_t);

void write_header(fmmap::byte_writer to) {
  auto const tag = [&](std::string_view name) { fmmap::or_throw(to.write_exactly(std::as_bytes(std::span{name}))); };
  auto const two_bytes = [&](std::uint16_t number) { fmmap::or_throw(to.write_le<std::uint16_t>(number)); };
  auto const four_bytes = [&](std::uint32_t number) { fmmap::or_throw(to.write_le<std::uint32_t>(number)); };
  tag("RIFF");
  four_bytes(size - 8); // that follow
  tag("WAVE");
  tag("fmt ");
  four_bytes(16); // up to "data"
  two_bytes(1);   // plain numbers
  two_bytes(1);   // one channel
  four_bytes(rate);
  four_bytes(rate * 2); // bytes a second
  two_bytes(2);         // bytes a sample
  two_bytes(16);        // bits a sample
  tag("data");
  four_bytes(size - header_size);
}

// Louder and louder, at 440 Hz.
auto sample(std::size_t index) -> std::int16_t {
  auto const seconds = static_cast<double>(index) / rate;
  return static_cast<std::int16_t>(30'000 * seconds * std::sin(440 * 2 * std::numbers::pi * seconds));
}

auto loudest(fmmap::records<std::int16_t> samples) -> int {
  return std::ranges::max(samples | std::views::transform([](std::int16_t sample) { return std::abs(sample); }));
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc > 2) {
    std::fputs("usage: write_tone [NEW_FILE]\n", stderr);
    return 2;
  }
  auto tone = fmmap::or_throw(argc == 2 ? fmmap::mutable_mapped_file::create(argv[1], {.size = size})
                                        : fmmap::mutable_mapped_file::in_memory("tone", size));
  tone.set_remove_on_close(argc == 2); // half a file is of no use to anybody

  write_header(fmmap::or_throw(tone.writer({.offset = 0, .length = header_size})));
  auto const samples = fmmap::or_throw(tone.writable_view<std::int16_t>(header_size)); // in place, up to the end
  std::ranges::generate(samples, [index = std::size_t{0}]() mutable { return sample(index++); });

  tone.set_remove_on_close(false);                             // it is whole
  auto const file = fmmap::or_throw(std::move(tone).freeze()); // the same bytes, where they were, for reading

  auto header = fmmap::or_throw(file.reader({.offset = 0, .length = header_size}));
  fmmap::or_throw(header.skip(22));
  auto const channels = fmmap::or_throw(header.read_le<std::uint16_t>());
  auto const samples_a_second = fmmap::or_throw(header.read_le<std::uint32_t>());
  std::printf("%u channel, %u samples a second; the loudest of each tenth:", channels, samples_a_second);
  for (auto const tenth : fmmap::chunks(fmmap::or_throw(file.bytes({.offset = header_size})), rate / 10 * 2)) {
    std::printf(" %d", loudest(fmmap::records<std::int16_t>{tenth}));
  }
  std::putchar('\n');
  return channels == 1 && samples_a_second == rate ? 0 : 1;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
