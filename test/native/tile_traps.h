// AMX by software, for processors without it: there a tile instruction raises SIGILL, whose handler
// here decodes the instruction, does its work on tiles kept in the thread's memory, and goes on
// behind it. So the very machine code that AMX processors run is tested, encodings and operand
// order included. Where the processor has AMX nothing traps, and the same tests run on the real
// thing.
//
// Follows the operation sections of Intel's Software Developer's Manual, volume 2, for LDTILECFG,
// TILERELEASE, TILEZERO, TILELOADD, TILESTORED, TDPBSSD and its three sisters of other signs. What
// would fault there (no configuration, operands whose shapes do not fit, the same tile twice) or
// what is not known here ends the process with a message.
//
// A trap takes microseconds. Threads must not block SIGILL.
#pragma once

#if defined(__x86_64__) && defined(__linux__)
#define LH_HAS_TILE_TRAPS 1

#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace lh_test {

struct TileCounts {
  std::atomic<int64_t> configures{0}, releases{0}, products{0}, loads{0}, stores{0};
};

struct Tiles {
  bool configured = false;
  int rows[8] = {};
  int row_bytes[8] = {};
  uint8_t data[8][16][64] = {};
};

class TileTraps {
 public:
  TileTraps() {
    struct sigaction action = {};
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, &previous_);
  }
  ~TileTraps() { sigaction(SIGILL, &previous_, nullptr); }
  TileTraps(const TileTraps&) = delete;
  TileTraps& operator=(const TileTraps&) = delete;

  static TileCounts& counts() {
    static TileCounts all;
    return all;
  }
  // This thread's.
  static Tiles& tiles() {
    static thread_local Tiles mine;
    return mine;
  }

 private:
  [[noreturn]] static void fault(const char* what, const uint8_t* code) {
    std::fprintf(stderr, "tile instruction: %s:", what);
    for (int i = 0; i < 10; ++i) std::fprintf(stderr, " %02x", code[i]);
    std::fprintf(stderr, "\n");
    std::abort();
  }

  // The fields of a three-byte VEX instruction of map 0F38.
  struct Instruction {
    const uint8_t* code;
    int prefix;  // 0 none, 1 66, 2 F3, 3 F2
    int opcode;
    int mod, reg, rm, vvvv;
    int index = 4;      // 4 = none
    uint64_t base = 0;  // address without index; of memory forms
    uint64_t index_value = 0;
    const uint8_t* next = nullptr;

    uint64_t address() const { return base + index_value; }
  };

  static uint64_t general(const ucontext_t* context, int number) {
    static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                       REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(context->uc_mcontext.gregs[kOrder[number]]);
  }

  static Instruction decode(const ucontext_t* context) {
    const auto* code = reinterpret_cast<const uint8_t*>(context->uc_mcontext.gregs[REG_RIP]);
    if (code[0] != 0xc4 || (code[1] & 31) != 2) fault("not one", code);
    if ((code[2] & 0x84) != 0) fault("W or L is set", code);
    Instruction i{};
    i.code = code;
    i.prefix = code[2] & 3;
    i.vvvv = ~code[2] >> 3 & 15;
    i.opcode = code[3];
    i.mod = code[4] >> 6;
    i.reg = code[4] >> 3 & 7;
    i.rm = code[4] & 7;
    i.index = 4;
    i.next = code + 5;
    if ((code[1] & 0x80) == 0) fault("a tile beyond 7", code);  // R
    if (i.mod == 3) return i;
    const int extend_base = (code[1] & 0x20) == 0 ? 8 : 0;
    const int extend_index = (code[1] & 0x40) == 0 ? 8 : 0;
    bool has_base = true;
    int base = i.rm + extend_base, displacement_bytes = i.mod == 1 ? 1 : i.mod == 2 ? 4 : 0;
    bool relative = false;
    if (i.rm == 4) {
      const uint8_t sib = *i.next++;
      i.index = (sib >> 3 & 7) + extend_index;
      if (i.index != 4) i.index_value = general(context, i.index) << (sib >> 6);
      base = (sib & 7) + extend_base;
      if ((sib & 7) == 5 && i.mod == 0) {
        has_base = false;
        displacement_bytes = 4;
      }
    } else if (i.rm == 5 && i.mod == 0) {
      has_base = false;
      relative = true;
      displacement_bytes = 4;
    }
    int64_t displacement = 0;
    if (displacement_bytes == 1) displacement = static_cast<int8_t>(*i.next);
    if (displacement_bytes == 4) {
      int32_t word;
      std::memcpy(&word, i.next, 4);
      displacement = word;
    }
    i.next += displacement_bytes;
    i.base = static_cast<uint64_t>(displacement);
    if (has_base) i.base += general(context, base);
    if (relative) i.base += reinterpret_cast<uint64_t>(i.next);
    return i;
  }

  static void configure(const Instruction& i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(i.address());
    Tiles fresh;
    if (bytes[0] != 1) fault("palette is not 1", i.code);
    if (bytes[1] != 0) fault("start row is not 0", i.code);
    for (int k = 2; k < 16; ++k) {
      if (bytes[k] != 0) fault("reserved bytes are not 0", i.code);
    }
    for (int t = 0; t < 16; ++t) {
      uint16_t row_bytes;
      std::memcpy(&row_bytes, bytes + 16 + 2 * t, 2);
      const int rows = bytes[48 + t];
      if ((t >= 8 && (rows != 0 || row_bytes != 0)) || (rows == 0) != (row_bytes == 0) ||
          rows > 16 || row_bytes > 64) {
        fault("no tile of this size", i.code);
      }
      if (t >= 8) continue;
      fresh.rows[t] = rows;
      fresh.row_bytes[t] = row_bytes;
    }
    fresh.configured = true;
    tiles() = fresh;
    ++counts().configures;
  }

  static void require(const Instruction& i, int tile) {
    if (!tiles().configured) fault("tiles of this thread are not configured", i.code);
    if (tiles().rows[tile] == 0) fault("a tile without rows", i.code);
  }

  static void copy_rows(const Instruction& i, bool load) {
    if (i.mod == 3 || i.rm != 4) fault("no base and index", i.code);
    require(i, i.reg);
    Tiles& t = tiles();
    // The stride is the index register times its scale; without one it is 0.
    uint64_t at = i.base;
    for (int row = 0; row < 16; ++row, at += i.index_value) {
      uint8_t* data = t.data[i.reg][row];
      const auto bytes = static_cast<size_t>(t.row_bytes[i.reg]);
      if (row >= t.rows[i.reg]) {
        if (load) std::memset(data, 0, 64);
        continue;
      }
      if (load) {
        std::memset(data, 0, 64);
        std::memcpy(data, reinterpret_cast<const void*>(at), bytes);
      } else {
        std::memcpy(reinterpret_cast<void*>(at), data, bytes);
      }
    }
    ++(load ? counts().loads : counts().stores);
  }

  template <typename Left, typename Right>
  static void multiply(const Instruction& i) {
    const int sums = i.reg, left = i.rm, right = i.vvvv;
    if (i.mod != 3 || right > 7 || (i.code[1] & 0x20) == 0) fault("operands", i.code);
    for (const int tile : {sums, left, right}) require(i, tile);
    if (sums == left || sums == right || left == right) fault("a tile named twice", i.code);
    Tiles& t = tiles();
    if (t.rows[sums] != t.rows[left] || t.row_bytes[sums] != t.row_bytes[right] ||
        t.row_bytes[left] != 4 * t.rows[right] || t.row_bytes[sums] % 4 != 0) {
      fault("shapes do not fit", i.code);
    }
    for (int m = 0; m < t.rows[sums]; ++m) {
      for (int n = 0; n < t.row_bytes[sums] / 4; ++n) {
        uint32_t sum;
        std::memcpy(&sum, t.data[sums][m] + 4 * n, 4);
        for (int k = 0; k < t.rows[right]; ++k) {
          for (int b = 0; b < 4; ++b) {
            const int product = static_cast<Left>(t.data[left][m][4 * k + b]) *
                                static_cast<Right>(t.data[right][k][4 * n + b]);
            sum += static_cast<uint32_t>(product);
          }
        }
        std::memcpy(t.data[sums][m] + 4 * n, &sum, 4);
      }
    }
    ++counts().products;
  }

  static void execute(const Instruction& i) {
    switch (i.opcode << 4 | i.prefix) {
      case 0x490:
        if (i.mod == 3) {
          if (i.reg != 0 || i.rm != 0 || i.vvvv != 0) fault("not TILERELEASE", i.code);
          tiles() = Tiles();
          ++counts().releases;
          return;
        }
        if (i.reg != 0 || i.vvvv != 0) fault("not LDTILECFG", i.code);
        return configure(i);
      case 0x493:
        if (i.mod != 3 || i.rm != 0 || i.vvvv != 0) fault("not TILEZERO", i.code);
        require(i, i.reg);
        std::memset(tiles().data[i.reg], 0, sizeof(tiles().data[0]));
        return;
      case 0x4b3:
        if (i.vvvv != 0) fault("not TILELOADD", i.code);
        return copy_rows(i, true);
      case 0x4b2:
        if (i.vvvv != 0) fault("not TILESTORED", i.code);
        return copy_rows(i, false);
      case 0x5e3:
        return multiply<int8_t, int8_t>(i);
      case 0x5e2:
        return multiply<int8_t, uint8_t>(i);
      case 0x5e1:
        return multiply<uint8_t, int8_t>(i);
      case 0x5e0:
        return multiply<uint8_t, uint8_t>(i);
      default:
        fault("unknown", i.code);
    }
  }

  static void trapped(int, siginfo_t*, void* opaque) {
    auto* context = static_cast<ucontext_t*>(opaque);
    const Instruction i = decode(context);
    execute(i);
    context->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<int64_t>(i.next);
  }

  struct sigaction previous_ = {};
};

}  // namespace lh_test

#else
#define LH_HAS_TILE_TRAPS 0
#endif
