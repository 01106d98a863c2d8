// Tokenizers: exact ids on vocabularies small enough to merge by hand, the pre-tokenizers against
// reference cuts (test/golden/tokenizer), both merge algorithms against each other, poison inputs.
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "test.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/merge.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/unicode.h"

using namespace longhaul;

namespace {

using Ids = std::vector<int32_t>;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

std::string show(const Ids& ids) {
  std::ostringstream out;
  for (const int32_t id : ids) out << id << ' ';
  return out.str();
}

struct Token {
  std::string text;
  TokenType type = TokenType::kNormal;
  float score = 0;
};

TokenizerSpec make_spec(const char* kind, const std::vector<Token>& tokens) {
  TokenizerSpec spec;
  spec.kind = kind;
  spec.pre_tokenizer = "gpt2";
  for (const Token& token : tokens) {
    spec.tokens.push(token.text);
    spec.types.push_back(static_cast<uint8_t>(token.type));
    spec.scores.push_back(token.score);
  }
  return spec;
}

// The 256 byte tokens of the GPT-2 alphabet: token `byte` spells that byte.
std::vector<Token> byte_tokens() {
  std::vector<Token> tokens(256);
  for (uint32_t code_point = 0x21; code_point < 0x100 + 68; ++code_point) {
    std::string spelling, byte;
    append_utf8(code_point, spelling);
    if (decode_byte_alphabet(spelling, byte)) tokens[static_cast<uint8_t>(byte[0])].text = spelling;
  }
  return tokens;
}

TokenizerPtr build(TokenizerSpec spec) {
  auto made = Tokenizer::create(std::move(spec));
  EXPECT_EQ(made.status().message(), "");
  return made.ok() ? made.value() : nullptr;
}

Ids encode(const TokenizerPtr& tokenizer, std::string_view text, bool special = false,
           const std::vector<size_t>& breaks = {}) {
  Ids ids;
  if (tokenizer) tokenizer->encode(text, special, breaks, ids);
  return ids;
}

std::string decode(const TokenizerPtr& tokenizer, const Ids& ids, bool special = true) {
  std::string out;
  for (const int32_t id : ids) out += tokenizer->token_bytes(id, special);
  return out;
}

// 256 h+e 257 l+l 258 he+ll 259 hell+o; <end> control, <tag> and "  " user-defined.
TokenizerSpec hello_spec() {
  std::vector<Token> tokens = byte_tokens();
  for (const char* word : {"he", "ll", "hell", "hello", "\u0120hello"}) tokens.push_back({word});
  tokens.push_back({"<end>", TokenType::kControl});
  tokens.push_back({"<tag>", TokenType::kUserDefined});
  tokens.push_back({"<tag>x", TokenType::kControl});
  TokenizerSpec spec = make_spec("bpe", tokens);
  for (const char* merge : {"h e", "l l", "he ll", "hell o"}) spec.merges.push(merge);
  return spec;
}
constexpr int32_t kHe = 256, kLl = 257, kHell = 258, kHello = 259, kSpaceHello = 260, kEnd = 261,
                  kTag = 262, kTagX = 263;

}  // namespace

LH_TEST(byte_bpe_merges_by_rank) {
  const TokenizerPtr tokenizer = build(hello_spec());
  EXPECT_EQ(show(encode(tokenizer, "hello")), show({kHello}));
  EXPECT_EQ(show(encode(tokenizer, "hello")), show({kHello}));  // by the word memo
  EXPECT_EQ(show(encode(tokenizer, "hell")), show({kHell}));
  EXPECT_EQ(show(encode(tokenizer, "helllo")), show({kHell, 'l', 'o'}));
  EXPECT_EQ(show(encode(tokenizer, "lll")), show({kLl, 'l'}));
  EXPECT_EQ(show(encode(tokenizer, "hehe he")), show({kHe, kHe, ' ', kHe}));
  // In the vocabulary, but no merge leads there.
  EXPECT_EQ(show(encode(tokenizer, " hello")), show({' ', kHello}));
  EXPECT_EQ(show(encode(tokenizer, " hello")), show({' ', kHello}));
  EXPECT_EQ(show(encode(tokenizer, "")), show({}));
  EXPECT_EQ(show(encode(tokenizer, "\xC3\xA9")), show({0xC3, 0xA9}));
}

LH_TEST(byte_bpe_ignore_merges_takes_whole_words) {
  TokenizerSpec spec = hello_spec();
  spec.ignore_merges = true;
  EXPECT_EQ(show(encode(build(std::move(spec)), " hello hellox")),
            show({kSpaceHello, ' ', kHello, 'x'}));
}

LH_TEST(special_tokens_follow_type_and_flag) {
  const TokenizerPtr tokenizer = build(hello_spec());
  const Ids spelled = {'<', 'e', 'n', 'd', '>'};
  EXPECT_EQ(show(encode(tokenizer, "<end>")), show(spelled));
  EXPECT_EQ(show(encode(tokenizer, "<end>", true)), show({kEnd}));
  EXPECT_EQ(show(encode(tokenizer, "he<end><end>he", true)), show({kHe, kEnd, kEnd, kHe}));
  EXPECT_EQ(show(encode(tokenizer, "<<end>", true)), show({'<', kEnd}));
  // User-defined tokens always; the longer control token only when asked for.
  EXPECT_EQ(show(encode(tokenizer, "<tag>x")), show({kTag, 'x'}));
  EXPECT_EQ(show(encode(tokenizer, "<tag>x", true)), show({kTagX}));
  EXPECT_EQ(show(encode(tokenizer, "<tag", true)), show({'<', 't', 'a', 'g'}));
}

LH_TEST(special_tokens_do_not_cross_breaks) {
  const TokenizerPtr tokenizer = build(hello_spec());
  const Ids spelled = {'<', 'e', 'n', 'd', '>'};
  for (size_t at = 1; at < 5; ++at) {
    EXPECT_EQ(show(encode(tokenizer, "<end>", true, {at})), show(spelled));
  }
  EXPECT_EQ(show(encode(tokenizer, "<end>", true, {0})), show({kEnd}));
  EXPECT_EQ(show(encode(tokenizer, "<end>", true, {5})), show({kEnd}));
  EXPECT_EQ(show(encode(tokenizer, "<end><end>", true, {5})), show({kEnd, kEnd}));
  EXPECT_EQ(show(encode(tokenizer, "<end><end><end>", true, {7, 7})),
            show({kEnd, '<', 'e', 'n', 'd', '>', kEnd}));
  // A break inside the longer token leaves the shorter one.
  EXPECT_EQ(show(encode(tokenizer, "<tag>x", true, {5})), show({kTag, 'x'}));
  // Breaks do not change how plain text merges.
  EXPECT_EQ(show(encode(tokenizer, "hello", true, {1, 2, 3})), show({kHello}));
}

LH_TEST(token_bytes_hide_control_tokens) {
  const TokenizerPtr tokenizer = build(hello_spec());
  EXPECT_EQ(tokenizer->token_bytes(kSpaceHello, false), " hello");
  EXPECT_EQ(tokenizer->token_bytes(0xC3, false), "\xC3");
  EXPECT_EQ(tokenizer->token_bytes(kEnd, false), "");
  EXPECT_EQ(tokenizer->token_bytes(kEnd, true), "<end>");
  EXPECT_EQ(tokenizer->token_bytes(kTag, false), "<tag>");
  for (const int32_t id : {-1, 264, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->token_bytes(id, true), "");
  }
}

LH_TEST(byte_bpe_drops_unspelled_bytes_unless_unknown) {
  std::vector<Token> tokens = {{"a"}, {"b"}, {"ab"}, {"<unk>", TokenType::kUnknown}};
  TokenizerSpec spec = make_spec("bpe", tokens);
  spec.merges.push("a b");
  TokenizerSpec with_unknown = spec;
  with_unknown.unknown_token_id = 3;
  TokenizerSpec control = with_unknown;
  control.types[3] = static_cast<uint8_t>(TokenType::kControl);
  EXPECT_EQ(show(encode(build(std::move(spec)), "a?b ab")), show({0, 1, 2}));
  EXPECT_EQ(show(encode(build(std::move(with_unknown)), "ab?")), show({2, 3}));
  EXPECT_EQ(show(encode(build(std::move(control)), "ab?")), show({2}));
}

LH_TEST(merges_never_make_control_tokens) {
  std::vector<Token> tokens = byte_tokens();
  tokens.push_back({"<e"});
  tokens.push_back({"<e>", TokenType::kControl});
  TokenizerSpec spec = make_spec("bpe", tokens);
  spec.pre_tokenizer = "none";
  spec.merges.push("< e");
  spec.merges.push("<e >");
  EXPECT_EQ(show(encode(build(std::move(spec)), "<e>")), show({256, '>'}));
}

namespace {

// Pieces by hand: scores decide, "▁" is a space.
TokenizerSpec spm_spec() {
  std::vector<Token> tokens = {{"<unk>", TokenType::kUnknown}, {"<s>", TokenType::kControl}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    tokens.push_back({text, TokenType::kByte});
  }
  const std::vector<Token> pieces = {
      {"\u2581", TokenType::kNormal, -10},  {"a", TokenType::kNormal, -11},
      {"b", TokenType::kNormal, -12},       {"c", TokenType::kNormal, -13},
      {"ab", TokenType::kNormal, -2},       {"bc", TokenType::kNormal, -1},
      {"\u2581a", TokenType::kNormal, -3},  {"\u2581ab", TokenType::kNormal, -4},
      {"aa", TokenType::kNormal, -5},       {"aaa", TokenType::kNormal, -5},
      {"\u00e9", TokenType::kNormal, -14},  {"\n", TokenType::kUserDefined, 0},
      {"\u2581\u2581", TokenType::kUserDefined, 0},
      {"\u65e5\u672c", TokenType::kNormal, -6},
  };
  tokens.insert(tokens.end(), pieces.begin(), pieces.end());
  TokenizerSpec spec = make_spec("spm", tokens);
  spec.unknown_token_id = 0;
  return spec;
}
enum : int32_t { kSp = 258, kA, kB, kC, kAb, kBc, kSpA, kSpAb, kAa, kAaa, kE, kNl, kSp2, kJp };
int32_t byte_id(int byte) { return 2 + byte; }

}  // namespace

LH_TEST(spm_merges_by_score) {
  const TokenizerPtr tokenizer = build(spm_spec());
  EXPECT_EQ(show(encode(tokenizer, "ab")), show({kAb}));
  EXPECT_EQ(show(encode(tokenizer, "abc")), show({kA, kBc}));  // bc scores higher than ab
  EXPECT_EQ(show(encode(tokenizer, " ab")), show({kSpAb}));
  EXPECT_EQ(show(encode(tokenizer, " abc")), show({kSpA, kBc}));
  // Equal scores: leftmost first, so "aa" grows to "aaa" before the next pair forms.
  EXPECT_EQ(show(encode(tokenizer, "aaaa")), show({kAaa, kA}));
  EXPECT_EQ(show(encode(tokenizer, "aaaaa")), show({kAaa, kAa}));
  EXPECT_EQ(show(encode(tokenizer, "a\u2581ab")), show({kA, kSpAb}));
  // No piece for either character alone, but one for both.
  EXPECT_EQ(show(encode(tokenizer, "\u65e5\u672c")), show({kJp}));
  EXPECT_EQ(show(encode(tokenizer, "\u65e5")), show({byte_id(0xE6), byte_id(0x97), byte_id(0xA5)}));
  EXPECT_EQ(show(encode(tokenizer, "\u00e9z")), show({kE, byte_id('z')}));
  EXPECT_EQ(show(encode(tokenizer, "\xFF" "a")), show({byte_id(0xFF), kA}));
  // Typed spellings of byte and unknown tokens are text.
  EXPECT_EQ(encode(tokenizer, "<0x41><unk>").size(), size_t{11});
}

LH_TEST(spm_user_defined_pieces_stay_whole) {
  const TokenizerPtr tokenizer = build(spm_spec());
  EXPECT_EQ(show(encode(tokenizer, "a\n\nb")), show({kA, kNl, kNl, kB}));
  EXPECT_EQ(show(encode(tokenizer, "a  ab")), show({kA, kSp2, kAb}));
  EXPECT_EQ(show(encode(tokenizer, "a   ab")), show({kA, kSp2, kSpAb}));
  EXPECT_EQ(show(encode(tokenizer, "a\u2581\u2581" "b")), show({kA, kSp2, kB}));
  EXPECT_EQ(show(encode(tokenizer, "\u2581<s>\u2581", true, {3})), show({kSp, 1, kSp}));
  EXPECT_EQ(show(encode(tokenizer, "\u2581<s>\u2581", true, {4})),
            show({kSp, byte_id('<'), byte_id('s'), byte_id('>'), kSp}));
}

LH_TEST(spm_space_prefix) {
  TokenizerSpec spec = spm_spec();
  spec.space_prefix = "segments";
  const TokenizerPtr tokenizer = build(std::move(spec));
  EXPECT_EQ(show(encode(tokenizer, "ab")), show({kSpAb}));
  EXPECT_EQ(show(encode(tokenizer, " ab")), show({kSp2, kAb}));
  EXPECT_EQ(show(encode(tokenizer, "")), show({}));
  EXPECT_EQ(show(encode(tokenizer, "<s>ab", true)), show({1, kSpAb}));
  EXPECT_EQ(decode(tokenizer, encode(tokenizer, "ab")), " ab");
}

LH_TEST(spm_space_prefix_schemes) {
  TokenizerSpec spec = spm_spec();
  spec.space_prefix = "first";
  const TokenizerPtr first = build(spec);
  spec.space_prefix = "always";
  const TokenizerPtr always = build(std::move(spec));
  for (const TokenizerPtr& tokenizer : {first, always}) {
    EXPECT_EQ(show(encode(tokenizer, "")), show({}));
    EXPECT_EQ(show(encode(tokenizer, "ab")), show({kSpAb}));
    EXPECT_EQ(show(encode(tokenizer, " ab")), show({kSpAb}));
    EXPECT_EQ(show(encode(tokenizer, "\u2581" "ab")), show({kSpAb}));
    EXPECT_EQ(show(encode(tokenizer, "<s> ab", true)), show({1, kSpAb}));
    EXPECT_EQ(show(encode(tokenizer, "<s>", true)), show({1}));
  }
  EXPECT_EQ(show(encode(first, "  ab")), show({kSp2, kAb}));  // the two spaces are a user's token
  EXPECT_EQ(show(encode(always, "  ab")), show({kSp2, kSpAb}));
  EXPECT_EQ(show(encode(first, "<s>ab", true)), show({1, kAb}));
  EXPECT_EQ(show(encode(first, "ab<s>ab\nab", true)), show({kSpAb, 1, kAb, kNl, kAb}));
  EXPECT_EQ(show(encode(always, "<s>ab", true)), show({1, kSpAb}));
  EXPECT_EQ(show(encode(always, "ab<s>ab\nab", true)), show({kSpAb, 1, kSpAb, kNl, kSpAb}));
}

LH_TEST(spm_without_bytes_fuses_unknown) {
  TokenizerSpec spec = make_spec("spm", {{"<unk>", TokenType::kUnknown}, {"a"}});
  spec.unknown_token_id = 0;
  EXPECT_EQ(show(encode(build(std::move(spec)), "axyzax")), show({1, 0, 1, 0}));
}

LH_TEST(wrong_specs_are_refused) {
  struct Case {
    const char* name;
    ErrorCode code;
    void (*spoil)(TokenizerSpec&);
  };
  const std::vector<Case> cases = {
      {"kind", ErrorCode::kUnsupported, [](TokenizerSpec& s) { s.kind = "unigram"; }},
      {"pre", ErrorCode::kUnsupported, [](TokenizerSpec& s) { s.pre_tokenizer = "gpt9"; }},
      {"prefix", ErrorCode::kUnsupported, [](TokenizerSpec& s) { s.space_prefix = "last"; }},
      {"types", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.types.pop_back(); }},
      {"type", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.types[3] = 7; }},
      {"byte", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.types[3] = 6; }},
      {"unknown", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.unknown_token_id = 264; }},
      {"order", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.tokens.offsets[4] = 99999; }},
      {"end", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.tokens.offsets.back() += 1; }},
      {"merge end", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.merges.offsets.back() += 1; }},
      {"empty", ErrorCode::kModelFormat,
       [](TokenizerSpec& s) { s.tokens.offsets.clear(), s.types.clear(); }},
      {"one part", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.merges.push("hello"); }},
      {"no right", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.merges.push("h "); }},
      {"absent", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.merges.push("z z"); }},
      {"alphabet", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.merges.push("h \u65e5"); }},
      {"scores", ErrorCode::kModelFormat,
       [](TokenizerSpec& s) { s.kind = "spm", s.scores.pop_back(); }},
      {"nan", ErrorCode::kModelFormat,
       [](TokenizerSpec& s) { s.kind = "spm", s.scores[5] = std::nanf(""); }},
      {"no unknown", ErrorCode::kModelFormat, [](TokenizerSpec& s) { s.kind = "spm"; }},
  };
  for (const Case& c : cases) {
    TokenizerSpec spec = hello_spec();
    c.spoil(spec);
    const auto made = Tokenizer::create(std::move(spec));
    if (made.ok() || made.status().code() != c.code) {
      lh_test::fail(__FILE__, __LINE__, std::string(c.name) + ": " + made.status().message());
    }
  }
}

LH_TEST(pre_tokenizers_cut_as_the_reference) {
  std::ifstream file("test/golden/tokenizer/cuts.txt");
  EXPECT_TRUE(file.good());
  std::string line, text;
  int checked = 0;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "=") {
      std::string hex;
      words >> hex;
      text.clear();
      for (size_t i = 0; i + 1 < hex.size(); i += 2) {
        text.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
      }
      continue;
    }
    PreTokenizer kind{};
    EXPECT_TRUE(find_pre_tokenizer(name, kind));
    std::ostringstream found;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = pre_token_end(kind, text, begin);
      if (end <= begin || end > text.size()) break;
      found << ' ' << end - begin;
      begin = end;
    }
    if (name + found.str() != line) {
      lh_test::fail(__FILE__, __LINE__, "\"" + text + "\"\n  expected " + line + "\n  found    " +
                                            name + found.str());
    }
    ++checked;
  }
  EXPECT_TRUE(checked > 2000);
}

LH_TEST(scan_and_heap_merge_alike) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    // Any table of priorities must do, also ones no training would give.
    const uint32_t num_ids = 2 + random() % 5;
    std::vector<uint64_t> table(64 * 64, kNoMerge);
    for (int i = 0; i < 60; ++i) {
      table[random() % 64 * 64 + random() % 64] = uint64_t{random() % 20} << 32 | random() % 64;
    }
    const auto lookup = [&](int32_t left, int32_t right, uint32_t begin, uint32_t end) {
      EXPECT_TRUE(begin < end);
      return table[static_cast<size_t>(left * 64 + right)];
    };
    const uint32_t n = 2 + random() % (kScanSymbolsMax - 1);
    std::vector<Symbol> a;
    for (uint32_t i = 0; i < n; ++i) a.push_back({i, static_cast<int32_t>(random() % num_ids)});
    std::vector<Symbol> b = a;
    merge_internal::merge_by_scan(a, n, lookup);
    merge_internal::merge_by_heap(b, n, lookup);
    EXPECT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
      EXPECT_EQ(a[i].id, b[i].id);
      EXPECT_EQ(a[i].begin, b[i].begin);
    }
  }
}

LH_TEST(any_bytes_survive_a_round_trip) {
  std::mt19937 random(11);
  const std::string pool = "hello 12\n'sA\xC3\xA9\xE2\x96\x81\xF0";
  for (const char* pre : {"gpt2", "smollm", "llama3", "qwen2", "tekken", "none"}) {
    TokenizerSpec spec = hello_spec();
    spec.pre_tokenizer = pre;
    const TokenizerPtr tokenizer = build(std::move(spec));
    for (int round = 0; round < 500; ++round) {
      std::string text(random() % 60, 'h');
      for (char& c : text) {
        c = random() % 3 ? pool[random() % pool.size()] : static_cast<char>(random());
      }
      EXPECT_EQ(decode(tokenizer, encode(tokenizer, text)), text);
    }
  }
  const TokenizerPtr spm = build(spm_spec());
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 60, 'a');
    for (char& c : text) c = random() % 2 ? "abc  \n"[random() % 6] : static_cast<char>(random());
    if (text.find("\xE2\x96\x81") != std::string::npos) continue;
    EXPECT_EQ(decode(spm, encode(spm, text)), text);
  }
}

LH_TEST(a_long_word_is_not_quadratic) {
  // A quadratic merge of two million symbols would run for hours.
  std::string word;
  for (int i = 0; i < 400'000; ++i) word += "hello";
  const Ids ids = encode(build(hello_spec()), word);
  EXPECT_EQ(ids.size(), size_t{400'000});
  EXPECT_EQ(ids.back(), kHello);
  EXPECT_EQ(encode(build(spm_spec()), std::string(1'000'000, 'a')).size(), size_t{333'334});
  std::string spaces(1'000'000, ' ');
  for (const char* pre : {"gpt2", "smollm", "llama3", "qwen2", "tekken"}) {
    TokenizerSpec spec = hello_spec();
    spec.pre_tokenizer = pre;
    EXPECT_EQ(encode(build(std::move(spec)), spaces + "x").size(), size_t{1'000'001});
  }
}

LH_TEST(threads_share_one_tokenizer) {
  const TokenizerPtr tokenizer = build(hello_spec());
  const std::string text = "hello hell he <end> <tag>x  12 hello helllo";
  const Ids expected = encode(build(hello_spec()), text, true);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) wrong[t] += encode(tokenizer, text, true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

LH_TEST(registry_opens_by_id_and_does_not_own) {
  TokenizerPtr tokenizer = build(hello_spec());
  const int32_t id = register_tokenizer_instance(tokenizer);
  EXPECT_TRUE(find_tokenizer_instance(id) == tokenizer);
  EXPECT_TRUE(find_tokenizer_instance(id + 1) == nullptr);
  tokenizer.reset();
  EXPECT_TRUE(find_tokenizer_instance(id) == nullptr);
}

LH_TEST(utf8_decoding_is_strict) {
  EXPECT_EQ(decode_utf8("\xF0\x9F\x98\x80", 0).value, 0x1F600u);
  EXPECT_EQ(decode_utf8("\xEF\xBF\xBD", 0).valid, true);
  const std::vector<std::string> wrong = {
      "\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
      "\xF5\x80\x80\x80", "\xE2\x82", "\xE2\x28\xA1", "\xFF", "\xF0\x80\x80\x80"};
  for (const std::string& bytes : wrong) {
    const CodePoint point = decode_utf8(bytes, 0);
    EXPECT_EQ(point.valid, false);
    EXPECT_EQ(point.length, 1u);
    EXPECT_EQ(point.value, 0xFFFDu);
  }
}

LH_TEST(utf16_conversion_keeps_marks_apart) {
  const MarkedText plain = utf16_to_utf8(u"a\u00e9\u20ac\xD83D\xDE00", 0);
  EXPECT_EQ(plain.text, "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  const char16_t lone[] = {u'a', 0xD800, u'b', 0xDC00, 0xD83D};
  EXPECT_EQ(utf16_to_utf8({lone, 5}, 0).text, "a\xEF\xBF\xBD" "b\xEF\xBF\xBD\xEF\xBF\xBD");
  const MarkedText marked = utf16_to_utf8(u"\uFDD0a\uFDD0\uFDD0b\uFDD0", 0xFDD0);
  EXPECT_EQ(marked.text, "ab");
  EXPECT_TRUE(marked.breaks == std::vector<size_t>({0, 1, 1, 2}));
  const MarkedText astral = utf16_to_utf8(u"x\xDB80\xDC00y", 0xF0000);
  EXPECT_EQ(astral.text, "xy");
  EXPECT_TRUE(astral.breaks == std::vector<size_t>({1}));
}

LH_TEST(character_classes) {
  const std::vector<std::pair<uint32_t, CharClass>> expected = {
      {'A', CharClass::kUpper},      {'z', CharClass::kLower},       {'5', CharClass::kNumber},
      {' ', CharClass::kSpace},      {'_', CharClass::kOther},       {0x85, CharClass::kSpace},
      {0xA0, CharClass::kSpace},     {0x1C5, CharClass::kUpper},     {0x2B0, CharClass::kOtherLetter},
      {0x301, CharClass::kMark},     {0x663, CharClass::kNumber},    {0x2167, CharClass::kNumber},
      {0x3000, CharClass::kSpace},   {0x65E5, CharClass::kOtherLetter},
      {0x200B, CharClass::kOther},   {0xFEFF, CharClass::kOther},    {0x1F600, CharClass::kOther},
      {0x1D49C, CharClass::kUpper},  {0x1D7D9, CharClass::kNumber},  {0x10FFFF, CharClass::kOther},
      {0x20000, CharClass::kOtherLetter}, {0xE0100, CharClass::kMark}};
  for (const auto& [code_point, type] : expected) {
    EXPECT_EQ(static_cast<int>(char_class(code_point)), static_cast<int>(type));
  }
  for (uint32_t c = 0; c < 128; ++c) {
    EXPECT_EQ(static_cast<int>(char_class(c)), static_cast<int>(ascii_class(static_cast<uint8_t>(c))));
  }
}

LH_TEST_MAIN
