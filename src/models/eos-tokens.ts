/**
 * Texts of tokens that end a turn in the families served here. A chat model whose metadata names
 * only one end id would otherwise run on after its turn.
 */
export const END_OF_TURN_TEXTS: readonly string[] = [
  '<|im_end|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<end_of_turn>',
  '<|end_of_text|>',
  '<|endoftext|>',
];

/** GGUF's token types. */
export const TOKEN_NORMAL = 1;
export const TOKEN_UNKNOWN = 2;
export const TOKEN_CONTROL = 3;
export const TOKEN_USER_DEFINED = 4;
export const TOKEN_UNUSED = 5;
export const TOKEN_BYTE = 6;
