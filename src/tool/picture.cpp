// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <ios>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

module fmmap.tool;

import :picture;
import :text;

namespace fmmap::tool {

namespace {

// All in pixels.
constexpr double width = 920;
constexpr double margin = 24;
constexpr double labels = 96; // where rows say what they begin with
constexpr double grid_width = width - (2 * margin) - labels;
constexpr double line_height = 20;
constexpr double title_height = 30;

auto escaped(std::string_view text) -> std::string {
  std::string safe;
  for (char const c : printable(text)) {
    switch (c) {
    case '&':
      safe += "&amp;";
      break;
    case '<':
      safe += "&lt;";
      break;
    case '>':
      safe += "&gt;";
      break;
    case '"':
      safe += "&quot;";
      break;
    default:
      safe += c;
    }
  }
  return safe;
}

class drawing {
public:
  explicit drawing(picture const& shown)
      : shown_{shown},
        columns_{shown.cells.size() > 1024 ? std::size_t{64} : std::size_t{32}},
        side_{grid_width / static_cast<double>(columns_)},
        rows_{(shown.cells.size() + columns_ - 1) / columns_},
        grid_top_{margin + title_height + (static_cast<double>(shown.notes.size()) * line_height)},
        legend_top_{grid_top_ + (static_cast<double>(rows_) * side_) + line_height} {
    out_ << std::fixed << std::setprecision(1);
  }

  [[nodiscard]] auto run() -> std::string {
    begin();
    draw_titles();
    draw_row_labels();
    draw_cells();
    draw_legend();
    out_ << "</svg>\n";
    return out_.str();
  }

private:
  void begin() {
    auto const height = legend_top_ + (static_cast<double>(shown_.layers.size()) * line_height) + margin;
    out_ << R"(<?xml version="1.0" encoding="UTF-8"?>)" << '\n'
         << R"(<svg xmlns="http://www.w3.org/2000/svg" width=")" << width << R"(" height=")" << height
         << R"(" viewBox="0 0 )" << width << ' ' << height
         << R"(" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">)" << '\n'
         << "<title>" << escaped(shown_.title) << "</title>\n"
         << R"(<defs><pattern id="hatched" width="4" height="4" patternUnits="userSpaceOnUse">)"
         << R"(<rect width="4" height="4" fill="#fff"/><path d="M0 4L4 0" stroke="#b2182b" stroke-width="1.6"/>)"
         << "</pattern></defs>\n"
         << R"(<rect width="100%" height="100%" fill="#fff"/>)" << '\n';
  }

  void write(double x, double y, std::string_view text, std::string_view style = "") {
    out_ << R"(<text x=")" << x << R"(" y=")" << y << '"' << style << '>' << escaped(text) << "</text>\n";
  }

  void draw_titles() {
    write(margin, margin + 14, shown_.title, R"( font-size="18" font-weight="bold")");
    auto y = margin + title_height + 8;
    for (auto const& note : shown_.notes) {
      write(margin, y, note, R"( fill="#555")");
      y += line_height;
    }
  }

  void draw_row_labels() {
    auto const step = std::max<std::size_t>(static_cast<std::size_t>(line_height / side_) + 1, 1);
    for (std::size_t row = 0; row < rows_; row += side_ >= line_height ? 1 : step) {
      auto const y = grid_top_ + (static_cast<double>(row) * side_) + std::min((side_ / 2) + 5, 12.0);
      write(margin + labels - 8, y, bytes_text(row * columns_ * shown_.cell_bytes),
            R"( text-anchor="end" font-size="11" fill="#555")");
    }
  }

  // The path of each layer goes through all cells, so that the file stays small.
  void draw_cells() {
    draw_frames();
    for (std::size_t layer = 0; layer < shown_.layers.size(); ++layer) {
      std::ostringstream path;
      path << std::fixed << std::setprecision(1);
      for (std::size_t cell = 0; cell < shown_.cells.size(); ++cell) {
        add_part(path, cell, layer);
      }
      if (auto const text = path.str(); !text.empty()) {
        out_ << R"(<path fill=")" << fill_of(shown_.layers[layer]) << R"(" d=")" << text << R"("/>)" << '\n';
      }
    }
  }

  void draw_frames() {
    if (shown_.cells.empty()) {
      return;
    }
    out_ << R"(<path fill="none" stroke="#aaa" stroke-width="0.5" d=")";
    for (std::size_t cell = 0; cell < shown_.cells.size(); ++cell) {
      add_rectangle(out_, cell, 0, 1);
    }
    out_ << R"("/>)" << '\n';
  }

  void add_part(std::ostream& path, std::size_t cell, std::size_t layer) const {
    auto const& parts = shown_.cells[cell];
    double below = 0;
    for (std::size_t i = 0; i < layer; ++i) {
      below += parts[i];
    }
    if (parts[layer] > 0) {
      add_rectangle(path, cell, below, parts[layer]);
    }
  }

  void add_rectangle(std::ostream& path, std::size_t cell, double below, double share) const {
    constexpr double gap = 1;
    auto const inner = side_ - gap;
    auto const x = margin + labels + (static_cast<double>(cell % columns_) * side_);
    auto const row = cell / columns_;
    auto const bottom = grid_top_ + (static_cast<double>(row) * side_) + inner;
    path << 'M' << x << ' ' << bottom - ((below + share) * inner) << 'h' << inner << 'v' << share * inner << 'h'
         << -inner << 'z';
  }

  void draw_legend() {
    auto y = legend_top_;
    for (auto const& layer : shown_.layers) {
      out_ << R"(<rect x=")" << margin + labels << R"(" y=")" << y << R"(" width="14" height="14" fill=")"
           << fill_of(layer) << R"(" stroke="#aaa" stroke-width="0.5"/>)" << '\n';
      write(margin + labels + 22, y + 12, layer.label);
      write(margin + labels + 300, y + 12, layer.amount, R"( fill="#555")");
      y += line_height;
    }
  }

  [[nodiscard]] static auto fill_of(picture_layer const& layer) -> std::string {
    return layer.fill == "hatched" ? "url(#hatched)" : layer.fill;
  }

  picture const& shown_;
  std::size_t columns_;
  double side_;
  std::size_t rows_;
  double grid_top_;
  double legend_top_;
  std::ostringstream out_;
};

} // namespace

auto svg_of(picture const& shown) -> std::string { return drawing{shown}.run(); }

} // namespace fmmap::tool
