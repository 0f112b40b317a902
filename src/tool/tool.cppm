// SPDX-License-Identifier: MIT OR Apache-2.0

// The `fmmap` command-line tool, docs/tool.md: what the library finds, for people, for programs and as pictures.
export module fmmap.tool;

export import :commands;
