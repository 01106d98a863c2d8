/**
 * Three probes for three questions: is the event loop alive (live), are new requests taken
 * (ready), does the engine move while it has work (progress). /health and /version answer as
 * vLLM's do.
 */
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { ServerContext } from '../server-context.js';

export function healthRoutes(app: FastifyInstance, context: ServerContext): void {
  const { admission, engine, health } = context;

  const ready = (reply: FastifyReply) => {
    const status = admission.state;
    if (status === 'ready') return { status };
    const error = engine.stats().failed;
    return reply
      .code(503)
      .header('retry-after', String(admission.retryAfterSeconds(status)))
      .send({ status, ...(error && { error: error.message }) });
  };

  app.get('/health/live', () => ({ status: 'live' }));
  app.get('/health/ready', (_request, reply) => ready(reply));
  app.get('/health', (_request, reply) => ready(reply));
  app.get('/version', () => ({ version: context.version }));

  app.get('/health/progress', (_request, reply) => {
    const { step, hasWork, secondsSinceStep, stuck } = health.sample();
    const { numRunning, numWaiting } = engine.stats();
    const status = stuck ? 'stuck' : admission.state;
    return reply.code(status === 'stuck' || status === 'failed' ? 503 : 200).send({
      step,
      has_work: hasWork,
      running: numRunning,
      waiting: numWaiting,
      status,
      seconds_since_step: secondsSinceStep,
    });
  });
}
