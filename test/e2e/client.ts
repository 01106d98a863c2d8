/** What the end-to-end tests say to a server: plain fetch, typed just enough for assertions. */

export interface CompletionChoice {
  index: number;
  text: string;
  finish_reason: string | null;
  stop_reason: string | number | null;
  token_ids?: number[];
  prompt_token_ids?: number[];
  logprobs: {
    tokens: string[];
    token_logprobs: Array<number | null>;
    top_logprobs: Array<Record<string, number> | null>;
    text_offset: number[];
  } | null;
  prompt_logprobs?: Array<Record<string, { logprob: number; rank: number }> | null>;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number } | null;
}

export interface Completion {
  id: string;
  object: string;
  choices: CompletionChoice[];
  usage: Usage;
}

export interface ErrorAnswer {
  error: {
    message: string;
    type: string;
    param: string | null;
    code: string | null;
    longhaul_code: string;
  };
}

export interface Answer<Body> {
  status: number;
  headers: Headers;
  body: Body;
}

/** Sends a JSON body; never throws on a status. */
export async function post<Body>(
  url: string,
  body: unknown,
  signal?: AbortSignal,
): Promise<Answer<Body>> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  });
  return {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Body,
  };
}

export async function get<Body>(url: string): Promise<Answer<Body>> {
  const response = await fetch(url);
  return {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Body,
  };
}

/** A completion that must succeed. */
export async function complete(base: string, body: Record<string, unknown>): Promise<Completion> {
  const answer = await post<Completion>(`${base}/v1/completions`, body);
  if (answer.status !== 200) {
    throw new Error(`/v1/completions answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  }
  return answer.body;
}

export function firstChoice(completion: { choices: CompletionChoice[] }): CompletionChoice {
  const choice = completion.choices[0];
  if (choice === undefined) throw new Error(`no choice in ${JSON.stringify(completion)}`);
  return choice;
}

/** The data of each server-sent event, '[DONE]' included; comments are dropped. */
export async function* events(response: Response): AsyncGenerator<string> {
  if (response.body === null) throw new Error('the response has no body');
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of response.body) {
    rest += decoder.decode(bytes as Uint8Array, { stream: true });
    let end = rest.indexOf('\n\n');
    while (end >= 0) {
      const event = rest.slice(0, end);
      rest = rest.slice(end + 2);
      if (event.startsWith('data: ')) yield event.slice('data: '.length);
      end = rest.indexOf('\n\n');
    }
  }
  if (rest !== '') throw new Error(`the stream ended inside an event: ${JSON.stringify(rest)}`);
}

/** Starts a streamed request and returns the response once its headers arrived. */
export async function openStream(
  url: string,
  body: Record<string, unknown>,
  signal?: AbortSignal,
): Promise<Response> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true }),
    ...(signal && { signal }),
  });
  if (response.status !== 200)
    throw new Error(`${url} answered ${response.status}: ${await response.text()}`);
  return response;
}

/** Samples of a Prometheus exposition by name and labels as written: `name{a="b"}` → value. */
export async function readMetrics(base: string): Promise<Map<string, number>> {
  const text = await (await fetch(`${base}/metrics`)).text();
  const samples = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    samples.map((line) => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

/** The one sample whose name is `name` and whose labels include all of `labels`. */
export function sample(
  metrics: Map<string, number>,
  name: string,
  labels: Record<string, string> = {},
): number {
  const wanted = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
  const found = [...metrics].filter(
    ([key]) =>
      (key === name || key.startsWith(`${name}{`)) && wanted.every((label) => key.includes(label)),
  );
  if (found.length !== 1) {
    throw new Error(`${found.length} samples of ${name} ${wanted.join(',')}: ${found.join('; ')}`);
  }
  return (found[0] as [string, number])[1];
}

export async function ownedBlocks(base: string): Promise<number> {
  return sample(await readMetrics(base), 'longhaul_kv_blocks', { tier: 'device', state: 'owned' });
}

/** Milliseconds until `condition` holds; throws after `limitMs`. */
export async function waitUntil(
  what: string,
  condition: () => Promise<boolean>,
  limitMs: number,
): Promise<number> {
  const start = performance.now();
  for (;;) {
    if (await condition()) return performance.now() - start;
    if (performance.now() - start > limitMs) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface Integrity {
  ok: boolean;
  owned: number;
  cached: number;
  free: number;
  moving: number;
}

/** After all work ended: bookkeeping is consistent and no block is owned. */
export async function idleIntegrity(base: string): Promise<Integrity> {
  await waitUntil('no block is owned', async () => (await ownedBlocks(base)) === 0, 5_000);
  return (await get<Integrity>(`${base}/debug/integrity`)).body;
}
