// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstdint>
#include <string>
#include <vector>

// Pictures of what lies where, as SVG: a grid of cells from the first byte to the last, row by row.
module fmmap.tool:picture;

namespace fmmap::tool {

// What parts of cells can be, in the order in which they are stacked, from the bottom.
struct picture_layer {
  std::string fill; // as SVG has it; "hatched" for lines that a printer without colours shows too
  std::string label;
  std::string amount;
};

struct picture {
  std::string title;
  std::vector<std::string> notes; // a line each
  std::vector<picture_layer> layers;
  std::uint64_t cell_bytes = 0;
  // For each cell, and in it for each layer, how much of the cell it is: from 0 to 1, 1 in all. What is missing stays white.
  std::vector<std::vector<double>> cells;
};

[[nodiscard]] auto svg_of(picture const& shown) -> std::string;

} // namespace fmmap::tool
