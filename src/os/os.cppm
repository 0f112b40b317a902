// SPDX-License-Identifier: MIT OR Apache-2.0

// The one place where fmmap calls the system.
//
// An internal module: implementation units import it, interface units never do. Partition :system, a file chosen by
// CMake, has the calls; :invoke is what each of them passes. The installed library calls straight through. Tests link a
// second build, in which every call passes the table of invoke_table.cppm and can be counted, failed, shortened, delayed,
// killed at, recorded or declared absent.
export module fmmap.os;

export import :calls;
export import :faults;
export import :fork;
export import :interruption;
export import :invoke;
export import :mappings;
export import :pages;
export import :system;
export import :types;
