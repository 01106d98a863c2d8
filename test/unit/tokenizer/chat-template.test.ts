import t from 'tap';
import { ChatTemplate, contentText } from '../../../src/tokenizer/chat-template.js';
import { strftime } from '../../../src/tokenizer/template-globals.js';
import type { ChatMessage, ChatRender } from '../../../src/tokenizer/tokenizer-types.js';
import { CHATML, GEMMA, LLAMA3, PARTS_ONLY } from './templates.js';

const TOKENS = { bosToken: '<bos>', eosToken: '<eos>' };
const user = (content: unknown): ChatMessage => ({ role: 'user', content });
const assistant = (content: unknown): ChatMessage => ({ role: 'assistant', content });

function render(
  source: string,
  messages: ChatMessage[],
  changes: Partial<ChatRender> = {},
): string {
  return new ChatTemplate(source, TOKENS).render({
    messages,
    addGenerationPrompt: false,
    continueFinalMessage: false,
    kwargs: {},
    ...changes,
  });
}

t.test('ChatML', async (t) => {
  t.equal(
    render(CHATML, [user('Hi')], { addGenerationPrompt: true }),
    '<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
  );
  t.equal(
    render(CHATML, [{ role: 'system', content: 'S' }, user(' Hi '), assistant('Ho')]),
    '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n',
  );
});

t.test('Llama 3: trimmed contents, bos from the template, tools is none', async (t) => {
  t.equal(
    render(LLAMA3, [user('  Hi\n')], { addGenerationPrompt: true }),
    '<bos><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\n',
  );
});

t.test('Gemma: system joins the first turn, roles alternate', async (t) => {
  t.equal(
    render(GEMMA, [{ role: 'system', content: 'S' }, user('a'), assistant('b'), user('c')], {
      addGenerationPrompt: true,
    }),
    '<bos><start_of_turn>user\nS\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n' +
      '<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n',
  );
  t.throws(() => render(GEMMA, [user('a'), user('b')]), {
    code: 'ERR_INVALID_REQUEST',
    message: /Conversation roles must alternate/,
    param: 'messages',
  });
});

t.test('content parts: kept where the template loops over them, else joined', async (t) => {
  const parts = [
    { type: 'text', text: ' one ' },
    { type: 'text', text: 'two' },
  ];
  t.equal(render(GEMMA, [user(parts)]), '<bos><start_of_turn>user\nonetwo<end_of_turn>\n');
  t.match(render(CHATML, [user(parts)]), '<|im_start|>user\n one \ntwo<|im_end|>');
  t.equal(render(PARTS_ONLY, [user('text'), user(parts)]), '[user]text[user] one two');
  t.throws(() => render(CHATML, [user([{ type: 'image_url', image_url: {} }])]), {
    code: 'ERR_UNSUPPORTED',
    message: /image_url/,
  });
  t.equal(contentText(null), '');
});

t.test('kwargs reach the template but replace none of its own variables', async (t) => {
  const source =
    '{{ enable_thinking }}|{{ bos_token }}|{{ add_generation_prompt }}|{{ messages | length }}';
  const kwargs = {
    enable_thinking: 'yes',
    bos_token: 'X',
    add_generation_prompt: true,
    messages: [],
  };
  t.equal(render(source, [user('a')], { kwargs }), 'yes|<bos>|false|1');
});

t.test('functions and filters that templates use', async (t) => {
  t.match(render('{{ strftime_now("%Y-%m-%d") }}', []), /^\d{4}-\d\d-\d\d$/);
  t.equal(render('{{ messages[0].content | tojson }}', [user('a "b"\n')]), '"a \\"b\\"\\n"');
  t.equal(render('{% if tools is none and tools is defined %}none{% endif %}', []), 'none');
  t.equal(render('{{ eos_token }}{{ undefined_thing }}', []), '<eos>');
});

t.test('range is bounded', async (t) => {
  const join = (call: string): string => render(`{% for i in ${call} %}{{ i }},{% endfor %}`, []);
  t.equal(join('range(3)'), '0,1,2,');
  t.equal(join('range(2, 5)'), '2,3,4,');
  t.equal(join('range(5, 0, -2)'), '5,3,1,');
  t.equal(join('range(0)'), '');
  t.equal(render('{{ range(100000) | length }}', []), '100000');
  for (const call of ['range(100001)', 'range(0, 1000000000)', 'range(1, 5, 0)']) {
    t.throws(() => join(call), { code: 'ERR_INVALID_REQUEST', message: /range/ });
  }
  t.equal(render('{{ range(3) | length }}', [], { kwargs: { range: 'x' } }), '3');
});

t.test('kwargs named like functions and constants change none of them', async (t) => {
  const names = ['range', 'raise_exception', 'strftime_now', 'true', 'none', 'namespace'];
  const kwargs = Object.fromEntries(names.map((name) => [name, 'x']));
  const source = '{{ range(2) | length }}{{ 1 if true else 2 }}{{ tools is none }}';
  t.equal(render(source, [], { kwargs }), '21true');
});

t.test('strftime as in the C locale', async (t) => {
  const date = new Date(2024, 6, 4, 0, 5, 9);
  t.equal(strftime(date, '%d %b %Y, %B %A %a'), '04 Jul 2024, July Thursday Thu');
  t.equal(strftime(date, '%H:%M:%S %I%p %y-%m %-d %% %Q'), '00:05:09 12AM 24-07 4 % %Q');
});

t.test('continue_final_message ends where the last message ends', async (t) => {
  const go = { continueFinalMessage: true };
  t.equal(
    render(CHATML, [user('Hi'), assistant('Sure, ')], go).split('<|im_start|>assistant')[1],
    '\nSure, ',
  );
  t.equal(
    render(LLAMA3, [user('Sure'), assistant('Sure \n')], go),
    '<bos><|start_header_id|>user<|end_header_id|>\n\nSure<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\nSure',
    'the template trims, so the end is the trimmed end',
  );
  t.equal(
    render(GEMMA, [user('a'), assistant([{ type: 'text', text: 'b' }])], go),
    '<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb',
  );
  for (const [messages, changes] of [
    [[user('a'), assistant('')], go],
    [[user('a'), assistant(null)], go],
    [[], go],
    [[user('a')], { continueFinalMessage: true, addGenerationPrompt: true }],
  ] as const) {
    t.throws(() => render('{{ bos_token }}', [...messages], changes), {
      code: 'ERR_INVALID_REQUEST',
      param: 'continue_final_message',
    });
  }
});

t.test('a template that cannot be read', async (t) => {
  t.throws(() => new ChatTemplate('{% for x in %}', TOKENS), { code: 'ERR_UNSUPPORTED' });
});
