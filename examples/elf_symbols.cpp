// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Lists the sections of a program or library and its largest functions: elf_symbols FILE
//
// The records of an ELF file are read where they lie. Every offset, size and name comes from the file itself, so each is
// checked: a damaged file ends in a sentence.

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <expected>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <elf.h>

import fmmap;

namespace {

static_assert(std::endian::native == std::endian::little, "records are read as they are in memory");

using sections = std::span<Elf64_Shdr const>;

[[noreturn]] void reject(fmmap::file_view const& file, char const* why) {
  throw std::runtime_error{std::string{file.path()} + ": " + why};
}

auto header_of(fmmap::file_view const& file) -> Elf64_Ehdr {
  if (!file.text().starts_with(ELFMAG)) {
    reject(file, "not an ELF file");
  }
  auto const header = fmmap::or_throw(file.read<Elf64_Ehdr>(0));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    reject(file, "an ELF file, but not one of 64 bits with the least significant byte first");
  }
  return header;
}

auto sections_of(fmmap::file_view const& file, Elf64_Ehdr const& header) -> sections {
  if (header.e_shoff == 0) {
    reject(file, "it has no sections");
  }
  if (header.e_shentsize != sizeof(Elf64_Shdr)) {
    reject(file, "its section headers have another size than they should");
  }
  std::uint64_t count = header.e_shnum;
  if (count == 0) { // too many for the field; the first section has their number
    count = fmmap::or_throw(file.read<Elf64_Shdr>(header.e_shoff)).sh_size;
  }
  return fmmap::or_throw(file.view<Elf64_Shdr>(header.e_shoff, count)); // in place: nothing is copied
}

auto section_at(fmmap::file_view const& file, sections all, std::size_t index) -> Elf64_Shdr const& {
  if (index >= all.size()) {
    reject(file, "it refers to a section it does not have");
  }
  return all[index];
}

auto range_of(Elf64_Shdr const& section) -> fmmap::byte_range {
  return {.offset = section.sh_offset, .length = section.sh_size};
}

// The name at `offset` of a string table.
auto name_at(fmmap::file_view const& file, fmmap::byte_reader strings, std::uint64_t offset) -> std::string_view {
  fmmap::or_throw(strings.seek(offset));
  auto const name = strings.read_until(std::byte{0});
  if (name.empty() || name.back() != std::byte{0}) {
    reject(file, "a name in it has no end");
  }
  return {reinterpret_cast<char const*>(name.data()), name.size() - 1};
}

void print_sections(fmmap::file_view const& file, Elf64_Ehdr const& header, sections all) {
  std::size_t const index = header.e_shstrndx == SHN_XINDEX ? all.front().sh_link : header.e_shstrndx;
  auto const names = fmmap::or_throw(file.reader(range_of(section_at(file, all, index))));
  for (auto const& section : all) {
    std::printf("%12" PRIu64 "  %s\n", section.sh_size, name_at(file, names, section.sh_name).data());
  }
  auto const in_file = [](Elf64_Shdr const& section) { return section.sh_type == SHT_NOBITS ? 0 : section.sh_size; };
  auto const& largest = *std::ranges::max_element(all, {}, in_file);
  std::printf("%zu sections, the largest is %s\n", all.size(), name_at(file, names, largest.sh_name).data());
}

void print_functions(fmmap::file_view const& file, sections all) {
  auto table = std::ranges::find(all, Elf64_Word{SHT_SYMTAB}, &Elf64_Shdr::sh_type);
  if (table == all.end()) { // a stripped file keeps what others link to
    table = std::ranges::find(all, Elf64_Word{SHT_DYNSYM}, &Elf64_Shdr::sh_type);
  }
  if (table == all.end()) {
    std::puts("no symbols");
    return;
  }
  auto const names = fmmap::or_throw(file.reader(range_of(section_at(file, all, table->sh_link))));
  fmmap::records<Elf64_Sym> const symbols{fmmap::or_throw(file.bytes(table->sh_offset, table->sh_size))};
  if (table->sh_entsize != sizeof(Elf64_Sym) || !symbols.rest().empty()) {
    reject(file, "its symbols have another size than they should");
  }
  auto const is_function = [](Elf64_Sym const& symbol) { return ELF64_ST_TYPE(symbol.st_info) == STT_FUNC; };
  std::vector<Elf64_Sym> functions;
  std::ranges::copy_if(symbols, std::back_inserter(functions), is_function);
  std::printf("%zu symbols, %zu of functions, the largest of these:\n", symbols.size(), functions.size());

  auto const shown = std::min<std::ptrdiff_t>(5, std::ssize(functions));
  std::ranges::partial_sort(functions, functions.begin() + shown, std::ranges::greater{}, &Elf64_Sym::st_size);
  for (auto const& function : functions | std::views::take(shown)) {
    std::printf("%12" PRIu64 "  %s\n", function.st_size, name_at(file, names, function.st_name).data());
  }
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc != 2) {
    std::fputs("usage: elf_symbols FILE\n", stderr);
    return 2;
  }
  auto const file = fmmap::or_throw(fmmap::file_view::open(argv[1]));
  auto const header = header_of(file);
  auto const all = sections_of(file, header);
  if (all.empty()) {
    reject(file, "it has no sections");
  }
  print_sections(file, header, all);
  print_functions(file, all);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
