/** GET /metrics for Prometheus; GET /debug/integrity where debug routes are on. */
import type { FastifyInstance } from 'fastify';
import type { ServerContext } from '../server-context.js';

export function operationsRoutes(app: FastifyInstance, context: ServerContext): void {
  const { engine, metrics } = context;

  app.get('/metrics', async (_request, reply) =>
    reply.header('content-type', metrics.contentType).send(await metrics.exposition()),
  );

  if (!context.config.debugRoutes) return;
  app.get('/debug/integrity', (_request, reply) => {
    try {
      engine.checkIntegrity();
      return { ok: true, ...engine.stats().blocks };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      return reply.code(500).send({ ok: false, error: message, ...engine.stats().blocks });
    }
  });
}
