// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <ios>
#include <iterator>
#include <numeric>
#include <optional>
#include <ostream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.hpp"

module fmmap.tool;

import fmmap.pmr;
import :heap_report;
import :picture;
import :text;

namespace fmmap::tool {

namespace {

using json = nlohmann::ordered_json;
using enum text_table::column;

constexpr std::uint64_t page_bytes = 4096; // of a heap
constexpr std::size_t most_listed = 40;    // rows of a table for people, and as many as there are sizes of blocks

auto identity_text(std::array<std::uint64_t, 2> const& identity) -> std::string {
  std::ostringstream text;
  text << std::hex << std::setfill('0') << std::setw(16) << identity[0] << '-' << std::setw(16) << identity[1];
  return text.str();
}

// What all records that are not in place come to.
struct pending {
  std::uint64_t records = 0;
  std::uint64_t pages = 0;
  std::uint64_t lines = 0;
  std::uint64_t bytes = 0;
};

auto pending_in(heap_inspection const& found) -> pending {
  pending sum;
  if (found.journal) {
    for (auto const& one : found.journal->records) {
      sum = {.records = sum.records + 1,
             .pages = sum.pages + one.pages,
             .lines = sum.lines + one.lines,
             .bytes = sum.bytes + one.bytes};
    }
  }
  return sum;
}

auto is_cut_short(heap_inspection const& found) -> bool {
  return found.journal && found.journal->after_records == journal_end::incomplete_record;
}

// Of a record that is or was longer than the journal, behind all that a heap can ever be.
auto is_too_long(heap_inspection const& found) -> bool {
  return found.journal && found.file_bytes > found.journal->spill_offset;
}

auto used_block_bytes(heap_usage const& usage) -> std::uint64_t {
  return std::transform_reduce(usage.classes.begin(), usage.classes.end(), std::uint64_t{0}, std::plus{},
                               [](size_class_usage const& one) { return one.used_blocks * one.block_bytes; });
}

auto changes_text(pending const& of) -> std::string {
  return count_text(of.pages, "page") + " in " + count_text(of.lines, "line") + " of 64 bytes";
}

// --- For people -------------------------------------------------------------------------------------------------------

auto slot_text(header_slot const& slot) -> std::string {
  if (!slot.flaw.empty()) {
    return "not valid: " + slot.flaw;
  }
  return "generation " + std::to_string(slot.generation) + ", from commit " + std::to_string(slot.sequence) + " at " +
         std::to_string(slot.tail) + ", salt " + hex_text(slot.salt) + (slot.is_closed ? ", closed" : "");
}

// How long the file is by the last commit, and whether it is.
auto committed_text(heap_inspection const& found, std::uint64_t committed) -> std::string {
  if (found.file_bytes == committed) {
    return "all of it";
  }
  auto const is_longer = found.file_bytes > committed;
  auto const difference = is_longer ? found.file_bytes - committed : committed - found.file_bytes;
  return exact_bytes_text(committed) + ", " + bytes_text(difference) + (is_longer ? " less" : " more") +
         " than there are";
}

void add_header(text_table& rows, heap_inspection const& found) {
  for (std::size_t i = 0; i < found.slots.size(); ++i) {
    auto const counts = found.journal && found.journal->slot == i;
    rows.add({"slot " + std::to_string(i), slot_text(found.slots[i]) + (counts ? " (this one counts)" : "")});
  }
  if (!found.heap) {
    return;
  }
  auto const& heap = *found.heap;
  rows.add({"format", std::to_string(heap.version)});
  rows.add({"identity", identity_text(heap.identity)});
  rows.add({"addresses", "slot " + hex_text(heap.slot) + ", content from " + hex_text(heap.base)});
  rows.add({"reserve", exact_bytes_text(heap.reserve)});
}

auto end_text(journal_end end) -> std::string_view {
  switch (end) {
  case journal_end::nothing:
    return "nothing";
  case journal_end::older_record:
    return "a record of before the last checkpoint";
  case journal_end::incomplete_record:
    break;
  }
  return "a record that is not whole: its commit was cut short and has not taken place";
}

void add_journal(text_table& rows, journal_inspection const& journal, pending const& of) {
  rows.add({"journal", exact_bytes_text(journal.bytes) + " at " + std::to_string(journal.offset)});
  rows.add({"not in place", of.records == 0 ? "nothing"
                                            : count_text(of.records, "commit") + ", " + changes_text(of) + ", " +
                                                  bytes_text(of.bytes)});
  rows.add({"behind that", std::string{end_text(journal.after_records)}});
}

void add_usage(text_table& rows, heap_usage const& usage) {
  auto const share = [&](std::uint64_t pages) {
    return count_text(pages, "page") + ", " + bytes_text(pages * page_bytes) + ", " +
           share_text(pages * page_bytes, usage.content_bytes);
  };
  rows.add({"content", exact_bytes_text(usage.content_bytes)});
  rows.add({"free", share(usage.free_pages)});
  rows.add({"runs", share(usage.run_pages)});
  rows.add(
      {"slabs", share(usage.slab_pages) + "; " + bytes_text(used_block_bytes(usage)) + " of that in blocks in use"});
  if (usage.damaged_pages > 0) {
    rows.add({"damaged", share(usage.damaged_pages)});
  }
}

// The first rows of a table that has its heading, and how many there are more.
template <class Items, class RowOf>
void print_list(std::ostream& to, text_table list, Items const& items, RowOf row_of) {
  for (auto const& one : std::span{items}.first(std::min(items.size(), most_listed))) {
    list.add(row_of(one));
  }
  to << '\n';
  list.print(to, "  ");
  if (items.size() > most_listed) {
    to << "  and " << items.size() - most_listed << " more, which --json lists\n";
  }
}

void print_records(std::ostream& to, std::vector<journal_record> const& records) {
  text_table list{{right, right, right, right, right, left}};
  list.add({"commit", "at", "bytes", "pages", "lines"});
  print_list(to, std::move(list), records, [](journal_record const& one) -> std::vector<std::string> {
    return {std::to_string(one.sequence), std::to_string(one.offset), std::to_string(one.bytes),
            std::to_string(one.pages),    std::to_string(one.lines),  one.is_spilled ? "behind the content" : ""};
  });
}

void print_classes(std::ostream& to, std::vector<size_class_usage> const& classes) {
  text_table list{{right, right, right, right, right, right}};
  list.add({"block", "slabs", "pages", "used", "free", "in use"});
  print_list(to, std::move(list), classes, [](size_class_usage const& one) -> std::vector<std::string> {
    return {std::to_string(one.block_bytes), std::to_string(one.slabs),
            std::to_string(one.pages),       std::to_string(one.used_blocks),
            std::to_string(one.free_blocks), share_text(one.used_blocks, one.used_blocks + one.free_blocks)};
  });
}

void print_objects(std::ostream& to, std::vector<inspected_object> const& objects) {
  text_table list{{left, right, right, left}};
  list.add({"object", "bytes", "at", "type"});
  print_list(to, std::move(list), objects, [](inspected_object const& one) -> std::vector<std::string> {
    return {printable(one.name), std::to_string(one.bytes), std::to_string(one.offset), printable(one.type)};
  });
}

// --- As JSON ----------------------------------------------------------------------------------------------------------

auto json_of(header_slot const& slot) -> json {
  auto const is_valid = slot.flaw.empty();
  json all{{"valid", is_valid}, {"flaw", is_valid ? json(nullptr) : json(slot.flaw)}};
  if (is_valid) {
    all["generation"] = slot.generation;
    all["sequence"] = slot.sequence;
    all["tail"] = slot.tail;
    all["salt"] = hex_text(slot.salt);
    all["closed"] = slot.is_closed;
  }
  return all;
}

auto json_of(journal_record const& one) -> json {
  return {{"sequence", one.sequence}, {"offset", one.offset}, {"bytes", one.bytes},
          {"pages", one.pages},       {"lines", one.lines},   {"spilled", one.is_spilled}};
}

auto json_of(size_class_usage const& one) -> json {
  return {{"block_bytes", one.block_bytes},
          {"slabs", one.slabs},
          {"pages", one.pages},
          {"used_blocks", one.used_blocks},
          {"free_blocks", one.free_blocks}};
}

auto json_of(usage_cell const& one) -> json {
  return {{"free_pages", one.free_pages},
          {"run_pages", one.run_pages},
          {"slab_pages", one.slab_pages},
          {"damaged_pages", one.damaged_pages},
          {"used_block_bytes", one.used_block_bytes}};
}

auto json_of(inspected_object const& one) -> json {
  return {{"name", one.name},
          {"type", one.type},
          {"bytes", one.bytes},
          {"offset", one.offset},
          {"address", hex_text(one.address)}};
}

template <class Items>
auto list_of(Items const& items) -> json {
  auto list = json::array();
  for (auto const& one : items) {
    list.push_back(json_of(one));
  }
  return list;
}

auto json_of(journal_inspection const& journal) -> json {
  return {{"slot", journal.slot},
          {"offset", journal.offset},
          {"bytes", journal.bytes},
          {"spill_offset", journal.spill_offset},
          {"committed_bytes", journal.committed_bytes},
          {"next_sequence", journal.next_sequence},
          {"records", list_of(journal.records)},
          {"after_records", to_string(journal.after_records)}};
}

auto json_of(heap_description const& heap) -> json {
  return {{"version", heap.version},     {"identity", identity_text(heap.identity)},
          {"slot", hex_text(heap.slot)}, {"base", hex_text(heap.base)},
          {"reserve", heap.reserve},     {"differences", heap.differences}};
}

auto json_of(heap_usage const& usage) -> json {
  return {{"content_bytes", usage.content_bytes}, {"free_pages", usage.free_pages},
          {"run_pages", usage.run_pages},         {"slab_pages", usage.slab_pages},
          {"damaged_pages", usage.damaged_pages}, {"classes", list_of(usage.classes)},
          {"pages_in_cell", usage.pages_in_cell}, {"cells", list_of(usage.cells)}};
}

template <class Part>
auto json_or_null(std::optional<Part> const& part) -> json {
  return part ? json_of(*part) : json(nullptr);
}

// --- As a picture -----------------------------------------------------------------------------------------------------

// Layers from the bottom: runs, blocks in use, blocks that are free, what is damaged, free pages.
auto parts_of(usage_cell const& cell) -> std::vector<double> {
  auto const pages = cell.free_pages + cell.run_pages + cell.slab_pages + cell.damaged_pages;
  auto const share = [&](double of_pages) { return pages == 0 ? 0 : of_pages / pages; };
  auto const in_use = static_cast<double>(cell.used_block_bytes) / page_bytes;
  return {share(cell.run_pages), share(in_use), share(cell.slab_pages - in_use), share(cell.damaged_pages),
          share(cell.free_pages)};
}

auto layers_of(heap_usage const& usage) -> std::vector<picture_layer> {
  auto const in_use = used_block_bytes(usage);
  auto const share = [&](std::uint64_t bytes) {
    return bytes_text(bytes) + ", " + share_text(bytes, usage.content_bytes);
  };
  return {
      {.fill = "#2166ac", .label = "runs of whole pages", .amount = share(usage.run_pages * page_bytes)},
      {.fill = "#e08214", .label = "blocks in use", .amount = share(in_use)},
      {.fill = "#fdd0a2", .label = "what else slabs take", .amount = share((usage.slab_pages * page_bytes) - in_use)},
      {.fill = "hatched", .label = "damaged", .amount = share(usage.damaged_pages * page_bytes)},
      {.fill = "#ffffff", .label = "free", .amount = share(usage.free_pages * page_bytes)}};
}

} // namespace

void print(std::ostream& to, inspected_heap const& heap) {
  auto const& found = heap.found;
  to << printable(heap.file.native()) << '\n';
  text_table rows{{left, left}};
  rows.add({"file", exact_bytes_text(found.file_bytes) + ", with blocks for " + bytes_text(found.allocated_bytes)});
  if (found.journal) {
    rows.add({"committed", committed_text(found, found.journal->committed_bytes)});
  }
  add_header(rows, found);
  if (found.journal) {
    add_journal(rows, *found.journal, pending_in(found));
  }
  if (found.usage) {
    add_usage(rows, *found.usage);
  }
  rows.print(to, "  ");
  if (found.journal && !found.journal->records.empty()) {
    print_records(to, found.journal->records);
  }
  if (found.usage && !found.usage->classes.empty()) {
    print_classes(to, found.usage->classes);
  }
  if (!found.objects.empty()) {
    print_objects(to, found.objects);
  }
  if (!found.problems.empty()) {
    to << '\n';
    print_problems(to, heap);
  }
}

auto json_of(inspected_heap const& heap) -> std::string {
  auto const& found = heap.found;
  return written(json{{"file", heap.file.native()},
                      {"file_bytes", found.file_bytes},
                      {"allocated_bytes", found.allocated_bytes},
                      {"slots", list_of(found.slots)},
                      {"journal", json_or_null(found.journal)},
                      {"heap", json_or_null(found.heap)},
                      {"usage", json_or_null(found.usage)},
                      {"objects", list_of(found.objects)},
                      {"problems", found.problems}});
}

auto picture_of(inspected_heap const& heap) -> picture {
  auto const& found = heap.found;
  picture shown{.title = heap.file.filename().native() + ": what the pages of the heap are",
                .notes = {},
                .layers = {},
                .cell_bytes = 0,
                .cells = {}};
  if (!found.usage || !found.heap) {
    shown.notes.push_back("Its books cannot be read.");
    return shown;
  }
  auto const& usage = *found.usage;
  shown.notes = {exact_bytes_text(usage.content_bytes) + " of content, " + count_text(found.objects.size(), "object") +
                     ", reserved for " + bytes_text(found.heap->reserve),
                 "A cell is " + count_text(usage.pages_in_cell, "page") + ", " +
                     bytes_text(usage.pages_in_cell * page_bytes) + "."};
  shown.layers = layers_of(usage);
  shown.cell_bytes = usage.pages_in_cell * page_bytes;
  std::ranges::transform(usage.cells, std::back_inserter(shown.cells), parts_of);
  return shown;
}

void print_problems(std::ostream& to, inspected_heap const& heap) {
  to << printable(heap.file.native()) << ": " << count_text(heap.found.problems.size(), "problem") << '\n';
  for (auto const& problem : heap.found.problems) {
    to << "  " << printable(problem) << '\n';
  }
}

void print_verdict(std::ostream& to, inspected_heap const& heap) {
  auto const& found = heap.found;
  if (!found.problems.empty()) {
    print_problems(to, heap);
    return;
  }
  auto const in_journal = pending_in(found).records;
  to << printable(heap.file.native()) << ": sound, with " << count_text(found.objects.size(), "object") << '\n';
  if (in_journal > 0) {
    to << "  " << count_text(in_journal, "commit") << " in the journal, which opening it for writing brings in place\n";
  }
  if (is_cut_short(found)) {
    to << "  a commit was cut short, and has not taken place\n";
  }
}

auto verdict_json_of(inspected_heap const& heap) -> std::string {
  return written(json{{"file", heap.file.native()},
                      {"sound", heap.found.problems.empty()},
                      {"objects", heap.found.objects.size()},
                      {"records", pending_in(heap.found).records},
                      {"incomplete_record", is_cut_short(heap.found)},
                      {"problems", heap.found.problems}});
}

void print_recovery(std::ostream& to, inspected_heap const& heap, bool is_done) {
  auto const verb = [&](std::string_view done, std::string_view planned) { return is_done ? done : planned; };
  auto const of = pending_in(heap.found);
  to << printable(heap.file.native()) << ": ";
  if (of.records == 0) {
    to << "no commits " << verb("were", "are") << " to be brought in place\n";
  } else {
    to << count_text(of.records, "commit") << ' ' << verb("brought", "would be brought") << " in place, "
       << changes_text(of) << '\n';
  }
  if (is_cut_short(heap.found)) {
    to << "  a commit that was cut short " << verb("is", "would be") << " forgotten\n";
  }
  if (auto const& journal = heap.found.journal; journal && is_too_long(heap.found)) {
    to << "  the file " << verb("was", "would be") << " cut off at " << exact_bytes_text(journal->committed_bytes)
       << ", before a record longer than the journal\n";
  }
}

auto recovery_json_of(inspected_heap const& heap, bool is_done) -> std::string {
  auto const of = pending_in(heap.found);
  return written(json{{"file", heap.file.native()},
                      {"done", is_done},
                      {"records", of.records},
                      {"pages", of.pages},
                      {"lines", of.lines},
                      {"incomplete_record", is_cut_short(heap.found)},
                      {"cut_off", is_too_long(heap.found)},
                      {"problems", heap.found.problems}});
}

} // namespace fmmap::tool
