// What is recorded about the kernels: registers, shared memory and parameters, read from cubins.
#include <dirent.h>
#include <elf.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>

#include "card.h"

namespace fake_card {
namespace {

// Attributes of the sections .nv.info and .nv.info.KERNEL, and the form whose value is preceded by its length.
enum : uint8_t { MAX_THREADS = 0x05, KPARAM_INFO = 0x17, REGCOUNT = 0x2f, SIZED = 0x04 };

template <typename T>
T at(const char* data, size_t offset) {
  T value;
  memcpy(&value, data + offset, sizeof value);
  return value;
}

struct Elf {
  const char* data;
  std::vector<Elf64_Shdr> sections;
  const char* names;

  const char* name(const Elf64_Shdr& section) const { return names + section.sh_name; }
  const Elf64_Shdr* find(const char* wanted) const {
    for (const Elf64_Shdr& section : sections) {
      if (!strcmp(name(section), wanted)) return &section;
    }
    return nullptr;
  }
};

bool open_elf(const char* data, size_t size, Elf& elf) {
  if (size < sizeof(Elf64_Ehdr) || memcmp(data, ELFMAG, SELFMAG)) return false;
  const auto header = at<Elf64_Ehdr>(data, 0);
  elf.data = data;
  for (int i = 0; i < header.e_shnum; ++i) {
    elf.sections.push_back(at<Elf64_Shdr>(data, header.e_shoff + size_t(i) * header.e_shentsize));
  }
  elf.names = data + elf.sections[header.e_shstrndx].sh_offset;
  return true;
}

// Calls visit(attribute, payload, length) for every attribute of a section that has a sized value.
template <typename Visit>
void each_attribute(const Elf& elf, const Elf64_Shdr& section, Visit visit) {
  const char* p = elf.data + section.sh_offset;
  const char* const end = p + section.sh_size;
  while (p + 4 <= end) {
    const uint8_t form = p[0], attribute = p[1];
    const uint16_t length = form == SIZED ? at<uint16_t>(p, 2) : 0;
    if (form == SIZED) visit(attribute, p + 4, length);
    p += 4 + length;
  }
}

void read_details(const Elf& elf, Kernel& kernel) {
  if (const Elf64_Shdr* info = elf.find((".nv.info." + kernel.name).c_str())) {
    each_attribute(elf, *info, [&](uint8_t attribute, const char* value, uint16_t) {
      if (attribute == MAX_THREADS) kernel.most_threads = at<uint32_t>(value, 0);
      // Index, ordinal, offset, and the size above 18 bits of other things.
      if (attribute == KPARAM_INFO) {
        kernel.parameters.resize(std::max<size_t>(kernel.parameters.size(), at<uint16_t>(value, 4) + 1));
        kernel.parameters[at<uint16_t>(value, 4)] = {at<uint16_t>(value, 6), uint16_t(at<uint32_t>(value, 8) >> 18)};
      }
    });
  }
  if (const Elf64_Shdr* shared = elf.find((".nv.shared." + kernel.name).c_str())) {
    // For cards that reserve shared memory in each block, the section holds that as well.
    const bool reserved = elf.find(".nv.shared.reserved.0");
    kernel.static_shared = std::max(0, int(shared->sh_size) - (reserved ? SHARED_RESERVED : 0));
  }
}

// Binary code runs on cards of the same major version and the same or a later minor one.
bool runs_here(const std::string& file) {
  std::smatch match;
  if (!std::regex_search(file, match, std::regex("sm_(\\d+)(\\d)"))) return false;
  return std::stoi(match[1]) == card().major && std::stoi(match[2]) <= card().minor;
}

std::unordered_map<std::string, Kernel> read_folder(const std::string& folder) {
  std::unordered_map<std::string, Kernel> kernels;
  DIR* directory = opendir(folder.c_str());
  if (!directory) return kernels;
  while (const dirent* entry = readdir(directory)) {
    const std::string file = entry->d_name;
    if (file.size() < 6 || file.substr(file.size() - 6) != ".cubin") continue;
    std::ifstream stream(folder + "/" + file, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
    std::unordered_map<std::string, Kernel> found;
    read_cubin(bytes.data(), bytes.size(), found);
    for (auto& [name, kernel] : found) {
      kernel.has_code = runs_here(file);
      if (kernel.has_code || !kernels.count(name)) kernels[name] = kernel;
    }
  }
  closedir(directory);
  return kernels;
}

}  // namespace

void read_cubin(const char* data, size_t size, std::unordered_map<std::string, Kernel>& found) {
  Elf elf;
  if (!open_elf(data, size, elf)) return;
  const Elf64_Shdr* symbols = elf.find(".symtab");
  const Elf64_Shdr* info = elf.find(".nv.info");
  if (!symbols || !info) return;
  const char* strings = data + elf.sections[symbols->sh_link].sh_offset;
  each_attribute(elf, *info, [&](uint8_t attribute, const char* value, uint16_t) {
    if (attribute != REGCOUNT) return;
    const auto symbol = at<Elf64_Sym>(data, symbols->sh_offset + at<uint32_t>(value, 0) * sizeof(Elf64_Sym));
    Kernel kernel;
    kernel.name = strings + symbol.st_name;
    kernel.registers = int(at<uint32_t>(value, 4));
    read_details(elf, kernel);
    found[kernel.name] = kernel;
  });
}

Kernel recorded_kernel(const std::string& name) {
  static const auto* const kernels = new std::unordered_map<std::string, Kernel>(
      getenv("FAKE_CARD_CUBINS") ? read_folder(getenv("FAKE_CARD_CUBINS")) : std::unordered_map<std::string, Kernel>());
  const auto found = kernels->find(name);
  if (found != kernels->end()) return found->second;
  Kernel kernel;
  kernel.name = name;
  return kernel;
}

}  // namespace fake_card
