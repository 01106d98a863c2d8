/** GET /v1/models and /v1/models/{id}; ids may contain slashes. */
import type { FastifyInstance } from 'fastify';
import { resolveModel } from '../generation-task.js';
import type { ServerContext } from '../server-context.js';

export function modelRoutes(app: FastifyInstance, context: ServerContext): void {
  const { model } = context;
  const card = (id: string) => ({
    id,
    object: 'model',
    created: model.createdSeconds,
    owned_by: 'longhaul',
    root: model.id,
    parent: null,
    max_model_len: context.contextLimit,
  });
  const names = [...new Set([model.id, ...model.aliases])];
  app.get('/v1/models', () => ({ object: 'list', data: names.map(card) }));
  app.get<{ Params: { '*': string } }>('/v1/models/*', (request) =>
    card(resolveModel(context, request.params['*'])),
  );
}
