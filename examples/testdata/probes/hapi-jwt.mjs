// A resource server that verifies access tokens with @hapi/jwt.
import Hapi from '@hapi/hapi';
import Jwt from '@hapi/jwt';

const [issuer, audience, port] = process.argv.slice(2);
const server = Hapi.server({ host: '127.0.0.1', port: Number(port) });
await server.register(Jwt);
server.auth.strategy('keyturn', 'jwt', {
  keys: { uri: `${issuer}/.well-known/jwks.json`, algorithms: ['RS256'] },
  verify: { iss: issuer, aud: audience, sub: false, nbf: true, exp: true },
  validate: (artifacts) => ({ isValid: true, credentials: artifacts.decoded.payload }),
});
server.auth.default('keyturn');
server.route({ method: 'GET', path: '/', handler: (request) => ({ sub: request.auth.credentials.sub }) });
await server.start();
