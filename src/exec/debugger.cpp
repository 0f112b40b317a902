// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <elf.h>

module fmmap.exec;

import :debugger;
import :machine;

// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier): the names are GDB's
//
// Names, layout and meaning are GDB's ("JIT Compilation Interface" in its manual). Whoever makes code in a process shares them,
// hence weak: LLVM has them too.
extern "C" {

struct jit_code_entry {
  jit_code_entry* next;
  jit_code_entry* previous;
  char const* file;
  std::uint64_t file_size;
};

struct jit_descriptor {
  std::uint32_t version;
  std::uint32_t action;
  jit_code_entry* relevant;
  jit_code_entry* first;
};

[[gnu::weak, gnu::used]] jit_descriptor __jit_debug_descriptor{
    .version = 1, .action = 0, .relevant = nullptr, .first = nullptr};

// A debugger has a breakpoint here, and looks at the descriptor.
[[gnu::weak, gnu::used, gnu::noinline]] void __jit_debug_register_code() { asm volatile("" ::: "memory"); }

} // extern "C"
// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier)

namespace fmmap {

namespace {

constinit std::mutex list; // from the descriptor on

enum class action : std::uint32_t { none, add, remove };

void tell_of(jit_code_entry& one, action what) noexcept {
  __jit_debug_descriptor.relevant = &one;
  __jit_debug_descriptor.action = static_cast<std::uint32_t>(what);
  __jit_debug_register_code();
  __jit_debug_descriptor.action = static_cast<std::uint32_t>(action::none);
  __jit_debug_descriptor.relevant = nullptr;
}

// Behind it are the strings.
struct object_file {
  Elf64_Ehdr header;
  std::array<Elf64_Shdr, 4> sections; // no section, the code, symbols, strings
  std::array<Elf64_Sym, 2> symbols;   // no symbol, the function
};

using namespace std::string_view_literals;
constexpr auto section_names = "\0.text\0.symtab\0.strtab\0"sv;

constexpr auto index_of(std::string_view section) -> Elf64_Word {
  return static_cast<Elf64_Word>(section_names.find(section));
}

auto object_file_of(std::byte const* address, std::size_t size, std::string const& name) -> std::vector<char> {
  auto const strings = section_names.size() + name.size() + 1;
  object_file file{};
  std::memcpy(file.header.e_ident, ELFMAG, SELFMAG);
  file.header.e_ident[EI_CLASS] = ELFCLASS64;
  file.header.e_ident[EI_DATA] = ELFDATA2LSB;
  file.header.e_ident[EI_VERSION] = EV_CURRENT;
  file.header.e_type = ET_REL;
  file.header.e_machine = machine::elf;
  file.header.e_version = EV_CURRENT;
  file.header.e_shoff = offsetof(object_file, sections);
  file.header.e_ehsize = sizeof file.header;
  file.header.e_shentsize = sizeof file.sections[0];
  file.header.e_shnum = file.sections.size();
  file.header.e_shstrndx = 3;
  auto& [none, code, symbols, names] = file.sections;
  code.sh_name = index_of(".text");
  code.sh_type = SHT_NOBITS; // it is in memory already
  code.sh_flags = SHF_ALLOC | SHF_EXECINSTR;
  code.sh_addr = reinterpret_cast<std::uintptr_t>(address);
  code.sh_size = size;
  code.sh_addralign = 1;
  symbols.sh_name = index_of(".symtab");
  symbols.sh_type = SHT_SYMTAB;
  symbols.sh_offset = offsetof(object_file, symbols);
  symbols.sh_size = sizeof file.symbols;
  symbols.sh_link = 3;
  symbols.sh_info = 1; // the first that is not local
  symbols.sh_addralign = alignof(Elf64_Sym);
  symbols.sh_entsize = sizeof file.symbols[0];
  names.sh_name = index_of(".strtab");
  names.sh_type = SHT_STRTAB;
  names.sh_offset = sizeof file;
  names.sh_size = strings;
  names.sh_addralign = 1;
  file.symbols[1] = {.st_name = static_cast<Elf64_Word>(section_names.size()),
                     .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
                     .st_other = STV_DEFAULT,
                     .st_shndx = 1,
                     .st_value = 0,
                     .st_size = size};

  std::vector<char> bytes(sizeof file + strings);
  std::memcpy(bytes.data(), &file, sizeof file);
  section_names.copy(bytes.data() + sizeof file, section_names.size());
  name.copy(bytes.data() + sizeof file + section_names.size(), name.size());
  return bytes;
}

} // namespace

class debugger::image {
public:
  explicit image(std::vector<char> file)
      : file_{std::move(file)},
        entry_{.next = nullptr, .previous = nullptr, .file = file_.data(), .file_size = file_.size()} {}

  // With the lock.
  void link() noexcept {
    auto*& first = __jit_debug_descriptor.first;
    entry_.next = first;
    if (first != nullptr) {
      first->previous = &entry_;
    }
    first = &entry_;
    tell_of(entry_, action::add);
  }

  void unlink() noexcept {
    (entry_.previous != nullptr ? entry_.previous->next : __jit_debug_descriptor.first) = entry_.next;
    if (entry_.next != nullptr) {
      entry_.next->previous = entry_.previous;
    }
    tell_of(entry_, action::remove);
  }

private:
  std::vector<char> file_;
  jit_code_entry entry_;
};

debugger::debugger() = default;

debugger::~debugger() {
  std::scoped_lock const lock{list};
  for (auto const& [address, one] : told_) {
    one->unlink();
  }
}

void debugger::add(std::byte const* address, std::size_t size, std::string const& name) {
  added_.emplace(address, std::make_unique<image>(object_file_of(address, size, name)));
}

void debugger::discard() noexcept { added_.clear(); }

void debugger::tell() noexcept {
  std::scoped_lock const lock{list};
  for (auto const& [address, one] : added_) {
    one->link();
  }
  told_.merge(added_);
}

void debugger::remove(std::byte const* address) noexcept {
  if (auto const found = told_.find(address); found != told_.end()) {
    std::scoped_lock const lock{list};
    found->second->unlink();
    told_.erase(found);
  }
}

void debugger::lock() noexcept { list.lock(); }
void debugger::unlock() noexcept { list.unlock(); }

} // namespace fmmap
