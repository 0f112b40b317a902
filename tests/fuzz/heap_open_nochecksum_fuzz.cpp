// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes its input for changes of the file of a heap, makes all checksums right, and opens and uses it.
//
// They are made right, and not taken for right by a build for fuzzing: what runs is the library as it is installed, records may
// lie wherever an input puts them, and what is found here is a file that anybody can write.

#include <cstddef>
#include <cstdint>

#include "heap_input.hpp"
#include "heap_use.hpp"
#include "script.hpp"

extern "C" auto LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) -> int {
  script input{{data, size}};
  auto& file = image(input.byte());
  file.restore();
  change(file, input);
  file.seal();
  heap_use{file, input}.play();
  return 0;
}
