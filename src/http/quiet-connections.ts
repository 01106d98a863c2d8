/**
 * Closes connections that carry no request when the server closes. Node's closeIdleConnections()
 * passes over sockets on which no request has come yet (browsers and undici open such spares), and
 * each of them would keep a drained process alive until its time-out.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Starts watching `server`; the returned function ends quiet connections, and busy ones when
 * their last answer is out. Upgraded sockets (websockets) are left to whoever upgraded them. */
export function watchQuietConnections(server: Server): () => void {
  const requests = new Map<Socket, number>();
  let closing = false;
  const settle = (socket: Socket) => {
    if (closing && requests.get(socket) === 0) socket.destroySoon();
  };
  server.on('connection', (socket: Socket) => {
    requests.set(socket, 0);
    socket.once('close', () => requests.delete(socket));
    settle(socket);
  });
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    const count = requests.get(socket);
    if (count === undefined) return;
    requests.set(socket, count + 1);
    response.once('close', () => {
      const left = requests.get(socket);
      if (left === undefined) return;
      requests.set(socket, left - 1);
      settle(socket);
    });
  });
  server.on('upgrade', (request: IncomingMessage) => requests.delete(request.socket as Socket));
  return () => {
    closing = true;
    for (const socket of requests.keys()) settle(socket);
  };
}
