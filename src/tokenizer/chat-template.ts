/**
 * A model's chat template: messages → prompt text, as transformers' apply_chat_template renders
 * them. Rendering runs whatever the model file says, so it belongs on a worker with a time limit.
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { EngineError } from '../errors.js';
import { TEMPLATE_GLOBALS } from './template-globals.js';
import type { ChatMessage, ChatRender } from './tokenizer-types.js';

export interface TemplateTokens {
  /** Text of the model's tokens, '' where it has none. */
  bosToken: string;
  eosToken: string;
}

/** Variables a request's chat_template_kwargs must not replace. */
interface TemplateVariables extends Record<string, unknown> {
  messages: ChatMessage[];
  add_generation_prompt: boolean;
  bos_token: string;
  eos_token: string;
}

export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: TemplateTokens;
  /** The template loops over the parts of a content. */
  readonly #acceptsParts: boolean;
  /** It does so without asking first whether the content is a string. */
  readonly #needsParts: boolean;

  /** Throws ERR_UNSUPPORTED when the source is not understood. */
  constructor(source: string, tokens: TemplateTokens) {
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new EngineError(
        'ERR_UNSUPPORTED',
        `The model's chat template cannot be read: ${messageOf(error)}`,
        { cause: error },
      );
    }
    this.#tokens = tokens;
    this.#acceptsParts = loopsOverContent(this.#template.parsed);
    this.#needsParts = this.#acceptsParts && !/\bis\s+(not\s+)?string\b/.test(source);
  }

  /** Throws ERR_INVALID_REQUEST with the template's own words when it rejects the messages. */
  render(request: ChatRender): string {
    const { addGenerationPrompt, continueFinalMessage } = request;
    if (addGenerationPrompt && continueFinalMessage) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        'continue_final_message: expected false together with add_generation_prompt, found true',
        { param: 'continue_final_message' },
      );
    }
    const messages = request.messages.map((message) => this.#shapeContent(message));
    const variables: TemplateVariables = {
      // transformers passes these two as none, and templates test them against none.
      tools: null,
      documents: null,
      ...request.kwargs,
      ...TEMPLATE_GLOBALS,
      messages,
      add_generation_prompt: addGenerationPrompt,
      bos_token: this.#tokens.bosToken,
      eos_token: this.#tokens.eosToken,
    };
    const text = this.#run(variables);
    return continueFinalMessage ? cutAfterFinalMessage(text, request.messages) : text;
  }

  #run(variables: TemplateVariables): string {
    // Not Template.render: its globals include a range() of any length, and a kwarg named like one
    // of them would be an error.
    const environment = new Environment();
    try {
      for (const [name, value] of Object.entries(variables)) {
        environment.variables.delete(name);
        environment.set(name, value);
      }
      const text = new Interpreter(environment).run(this.#template.parsed);
      return String(text.value);
    } catch (error) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        `The model's chat template rejects the messages: ${messageOf(error)}`,
        { param: 'messages', cause: error },
      );
    }
  }

  #shapeContent(message: ChatMessage): ChatMessage {
    const { content } = message;
    if (typeof content === 'string' && this.#needsParts) {
      return { ...message, content: [{ type: 'text', text: content }] };
    }
    if (!Array.isArray(content) || this.#acceptsParts) return message;
    return { ...message, content: contentText(content) };
  }
}

/** The text of a content: a string as it is, text parts joined by newlines. */
export function contentText(content: unknown): string {
  if (typeof content === 'string') return content;
  if (content === null || content === undefined) return '';
  const parts = Array.isArray(content) ? content : [content];
  return parts.map(partText).join('\n');
}

function partText(part: unknown): string {
  if (typeof part === 'string') return part;
  const fields = part as { type?: unknown; text?: unknown } | null;
  if (fields?.type === 'text' && typeof fields.text === 'string') return fields.text;
  throw new EngineError(
    'ERR_UNSUPPORTED',
    `messages: expected content parts of type "text", found ${JSON.stringify(fields?.type ?? null)}`,
    { param: 'messages' },
  );
}

/**
 * Ends the prompt where the last message's text ends, so that the model goes on with it. Templates
 * may trim the text, hence the search without its outer spaces.
 */
function cutAfterFinalMessage(text: string, messages: readonly ChatMessage[]): string {
  const last = messages[messages.length - 1];
  const content = Array.isArray(last?.content)
    ? contentText(last.content.slice(-1))
    : contentText(last?.content);
  const trimmed = content.trim();
  const at = trimmed === '' ? -1 : text.lastIndexOf(trimmed);
  if (at < 0) {
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      'continue_final_message: expected the last message to have text that the chat template keeps',
      { param: 'continue_final_message' },
    );
  }
  const withEnd = content.trimStart();
  return text.slice(0, at + (text.startsWith(withEnd, at) ? withEnd : trimmed).length);
}

interface SyntaxNode {
  type?: unknown;
  value?: unknown;
  iterable?: unknown;
  assignee?: SyntaxNode;
  property?: SyntaxNode;
}

/** Whether some loop runs over `….content` or over a variable set to it. */
function loopsOverContent(program: unknown): boolean {
  const aliases = new Set(['content']);
  let found = false;
  walk(program, (node) => {
    if (node.type === 'Set' && isContent(node.value, aliases)) {
      const name = node.assignee?.value;
      if (typeof name === 'string') aliases.add(name);
    }
    if (node.type === 'For' && isContent(node.iterable, aliases)) found = true;
  });
  return found;
}

function isContent(value: unknown, aliases: ReadonlySet<string>): boolean {
  const node = value as SyntaxNode | null | undefined;
  if (node?.type === 'Identifier') return aliases.has(node.value as string);
  if (node?.type !== 'MemberExpression') return false;
  return node.property?.value === 'content';
}

function walk(value: unknown, visit: (node: SyntaxNode) => void): void {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) visit(value as SyntaxNode);
  for (const child of Object.values(value)) walk(child, visit);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
