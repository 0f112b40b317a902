// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes its input for the file of a heap, or for changes of one, and opens and uses it. Checksums are as the input has them:
// header and journal are mostly found damaged, books and objects have none.

#include <cstddef>
#include <cstdint>
#include <span>

#include "heap_input.hpp"
#include "heap_use.hpp"
#include "script.hpp"

extern "C" auto LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) -> int {
  script input{{data, size}};
  auto const which = input.byte();
  auto& file = image(which);
  if (which / 2 % 4 == 0) {
    file.resize(0);
    file.resize(input.number<std::uint16_t>() * std::uint64_t{512});
    file.write(0, std::as_bytes(input.take(file.size())));
  } else {
    file.restore();
    change(file, input);
  }
  heap_use{file, input}.play();
  return 0;
}
