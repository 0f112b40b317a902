// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

// Numbers and names as people read them.
module fmmap.tool:text;

namespace fmmap::tool {

// "12.0 KiB"; less than that as "512 bytes".
[[nodiscard]] auto bytes_text(std::uint64_t bytes) -> std::string;

// The same, and the exact number where it says more.
[[nodiscard]] auto exact_bytes_text(std::uint64_t bytes) -> std::string;

// "25.0 %"
[[nodiscard]] auto share_text(std::uint64_t part, std::uint64_t whole) -> std::string;

// "1 object", "2 objects"
[[nodiscard]] auto count_text(std::uint64_t count, std::string_view noun) -> std::string;

// "0x1f"
[[nodiscard]] auto hex_text(std::uint64_t number) -> std::string;

// Names may hold any bytes. Those that are no text, or that terminals take for commands, become \x1b and the like.
[[nodiscard]] auto printable(std::string_view text) -> std::string;

// Rows whose columns line up, numbers at the right.
class text_table {
public:
  enum class column : unsigned char { left, right };

  explicit text_table(std::vector<column> columns) : columns_{std::move(columns)} {}

  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print(std::ostream& to, std::string_view indent) const;

private:
  std::vector<column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

} // namespace fmmap::tool
