/**
 * Transfers through the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name, read as curl and pip
 * read them: the lower-case spelling wins, a host in NO_PROXY stands for its subdomains too. Plain
 * HTTP is asked of the proxy, HTTPS goes through a tunnel. Without a proxy nothing is imported and
 * the runtime's own fetch is used.
 */
import type { Agent } from 'undici';
import { unavailable } from './model-error.js';

const PROXY_VARIABLES = { 'http:': 'HTTP_PROXY', 'https:': 'HTTPS_PROXY' } as const;
const DEFAULT_PORTS: Record<string, string> = { 'http:': '80', 'https:': '443' };

function setting(env: NodeJS.ProcessEnv, name: string): string {
  return env[name.toLowerCase()] || env[name] || '';
}

/**
 * The proxy to reach `url` through, null for none. Throws ERR_MODEL_UNAVAILABLE for a variable that
 * names no http or https proxy.
 */
export function proxyFor(url: URL, env: NodeJS.ProcessEnv): URL | null {
  const name = PROXY_VARIABLES[url.protocol as keyof typeof PROXY_VARIABLES];
  const text = name === undefined ? '' : setting(env, name);
  if (text === '' || isExcluded(url, setting(env, 'NO_PROXY'))) return null;
  const full = text.includes('://') ? text : `http://${text}`;
  const proxy = URL.canParse(full) ? new URL(full) : null;
  if (proxy?.protocol === 'http:' || proxy?.protocol === 'https:') return proxy;
  // The text may hold a password: only its scheme is shown.
  const found = proxy === null ? 'something else' : proxy.protocol;
  throw unavailable(`${name}: expected an http or https URL, received ${found}`);
}

/** Entries are hosts, with their subdomains, and may name a port; "*" is every host. */
function isExcluded(url: URL, list: string): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = url.port || DEFAULT_PORTS[url.protocol];
  return list.split(/[,\s]+/).some((entry) => {
    if (entry === '*') return true;
    const parts = /^(\[.*\]|[^:]*):(\d+)$/.exec(entry);
    if (parts && parts[2] !== port) return false;
    const name = (parts?.[1] ?? entry).toLowerCase().replace(/^\*?\.|^\[|\]$/g, '');
    return name !== '' && (host === name || host.endsWith(`.${name}`));
  });
}

/** Agents keep connections: one for each setting of the variables, for the process's life. */
const agents = new Map<string, Agent>();

/** fetch as the environment wants it. Throws as proxyFor. */
export async function pullFetch(env: NodeJS.ProcessEnv): Promise<typeof fetch> {
  const values = [...Object.values(PROXY_VARIABLES), 'NO_PROXY'].map((name) => setting(env, name));
  if (values[0] === '' && values[1] === '') return fetch;
  // What is wrong in a variable is said at once, whichever of them the transfer turns out to need.
  for (const protocol of Object.keys(PROXY_VARIABLES)) {
    proxyFor(new URL(`${protocol}//proxy.invalid`), { ...env, NO_PROXY: '', no_proxy: '' });
  }
  // undici's own fetch with its own agent: the runtime's may be of another version.
  const undici = await import('undici');
  const key = JSON.stringify(values);
  let dispatcher = agents.get(key);
  if (!dispatcher) {
    // The choice is the agent's, not the request's: a redirect may lead to another host.
    dispatcher = new undici.Agent({
      factory: (origin, options) => {
        const proxy = proxyFor(new URL(origin), env);
        if (proxy === null) return new undici.Pool(origin, options);
        return new undici.ProxyAgent({ uri: proxy.href, proxyTunnel: false });
      },
    });
    agents.set(key, dispatcher);
  }
  const options = { dispatcher };
  const get = (input: string | URL, init?: object) => undici.fetch(input, { ...init, ...options });
  // The two libraries' types differ where the code here does not look.
  return get as unknown as typeof fetch;
}
